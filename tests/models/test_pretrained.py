"""The networks that come with the package are what their metadata say."""

import pytest
import torch
from torch import nn

from elbowroom import data, models
from elbowroom.attacks.pgd import PGD
from elbowroom.norms import Linf


@pytest.fixture(scope="module")
def fonts():
    return data.load("fonts", "test")


@pytest.mark.parametrize("name", models.PRETRAINED)
def test_clean_accuracy_is_that_of_the_metadata(name, fonts):
    model = models.pretrained(name)
    assert not model.training
    with torch.no_grad():
        correct = (model(fonts.x).argmax(dim=1) == fonts.y).double().mean().item()
    metadata = models.read_metadata(models.weights_file(name))
    assert len(fonts) == 10_000
    # Another machine may round a few logits to the other side.
    assert correct == pytest.approx(float(metadata["validation accuracy"]), abs=5e-4)
    assert metadata["command"] == (
        f"OMP_NUM_THREADS=1 elbowroom train --recipe {name} --out runs/{name}"
    )
    assert metadata["architecture"] == models.PRETRAINED[name][0]


def test_adversarial_training_made_the_difference(fonts):
    x, y = fonts.x[:200], fonts.y[:200]
    attack = PGD(norm=Linf, eps=0.1, steps=20, step_size=0.02, line_search_steps=0)
    survived = {
        name: 1 - attack(models.load(name), x, y).success.double().mean().item()
        for name in ("fonts-plain", "fonts-adversarial")
    }
    assert survived["fonts-plain"] < 0.1
    assert survived["fonts-adversarial"] > 0.7


def test_they_are_small():
    sizes = [models.weights_file(name).stat().st_size for name in models.PRETRAINED]
    assert all(size < 450_000 for size in sizes), sizes


def test_they_take_no_weights_and_no_options(tmp_path):
    for options in ({"weights": tmp_path}, {"classes": 3}):
        with pytest.raises(ValueError, match="use its architecture, 'fonts-cnn'"):
            models.load("fonts-plain", **options)
    with pytest.raises(ValueError, match=r"is a trained network: use models\.load"):
        models.build("fonts-plain")
    with pytest.raises(ValueError, match="did you mean fonts-plain"):
        models.pretrained("fonts-plane")


def test_a_copy_of_the_weights_loads_into_the_architecture():
    model = models.load("fonts-cnn", models.weights_file("fonts-plain"))
    assert isinstance(model, nn.Sequential)
    shipped = models.load("fonts-plain").state_dict()
    assert all(torch.equal(tensor, shipped[key]) for key, tensor in model.state_dict().items())
