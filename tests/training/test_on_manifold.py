"""Objectives that move along the manifold, and the variants of the inner search."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from elbowroom import data, training
from elbowroom.manifold import Fonts, Generator
from elbowroom.manifold.registry import DECODERS
from elbowroom.norms import L1, L2, Linf
from elbowroom.training import on_manifold
from elbowroom.training.search import uniform_in_distance

WIDE = (-100.0, 100.0)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def linear(monkeypatch):
    """A two-class linear classifier behind a linear decoder that knows the codes of its samples."""
    torch.manual_seed(0)
    network, model = nn.Linear(3, 6), nn.Linear(6, 2)
    decoder = Generator(network, 3, encoder=nn.Linear(6, 3))
    with torch.no_grad():
        inverse = torch.linalg.pinv(network.weight)
        decoder.encoder.weight.copy_(inverse)
        decoder.encoder.bias.copy_(-inverse @ network.bias)
    monkeypatch.setitem(DECODERS, "linear", lambda split: decoder)
    monkeypatch.setattr(on_manifold, "_decoder", lambda name, split: DECODERS[name](split))
    z = torch.randn(20, 3)
    return model, decoder, z, network(z).detach(), torch.arange(20) % 2


def margins(model, x, y):
    logits = model(x).detach()
    return logits.gather(1, y[:, None])[:, 0] - logits.gather(1, 1 - y[:, None])[:, 0]


@pytest.mark.parametrize("norm", [Linf, L2])
def test_the_worst_sample_of_the_manifold(linear, norm):
    # The margin falls by eta times the dual norm of its gradient in the latent space.
    model, decoder, _, x, y = linear
    objective = training.OnManifold(
        decoder="linear", norm=norm, eta=0.2, steps=300, learning_rate=0.01
    )
    moved = objective.perturbed(model, x, y, WIDE, generator())
    row = (model.weight[0] - model.weight[1]) @ decoder.network.weight
    fall = 0.2 * norm.dual.length(row[None]).item()
    found = margins(model, x, y) - margins(model, moved, y)
    if norm == Linf:
        assert found.numpy() == pytest.approx(fall, rel=0.02)
    else:  # Adam's steps do not follow the gradient: they end on the sphere, beside the worst point
        assert bool(((found > 0.5 * fall) & (found <= fall * (1 + 1e-4))).all())


def test_the_first_that_is_misclassified(linear):
    model, _, _, x, y = linear
    options = {"decoder": "linear", "eta": 3.0, "steps": 300, "learning_rate": 0.02}
    full, first = (
        training.OnManifold(search=how, **options).perturbed(model, x, y, WIDE, generator())
        for how in ("full", "first")
    )
    right = margins(model, x, y) > 0
    assert bool((margins(model, first, y) <= 0)[right].all())
    assert bool((margins(model, first, y) >= margins(model, full, y) - 1e-5).all())
    assert bool((margins(model, first, y) > margins(model, full, y) + 0.1)[right].any())


def test_random_codes_are_the_start(linear):
    model, decoder, z, x, y = linear
    objective = training.OnManifold(decoder="linear", eta=0.5, search="random")
    moved = objective.perturbed(model, x, y, WIDE, generator(4))
    noise = uniform_in_distance(z, Linf, torch.full((20,), 0.5), generator(4))
    torch.testing.assert_close(moved, decoder.network(z + noise).detach(), rtol=1e-4, atol=1e-4)
    assert 0.4 < float(Linf.length(noise).max()) <= 0.5


def test_half_of_the_batch_is_moved(linear):
    model, _, _, x, y = linear
    seen = []
    model.register_forward_hook(lambda module, inputs, _: seen.append(inputs[0].detach()))
    loss = training.OnManifold(decoder="linear").loss(model, x, y, WIDE, generator())
    assert (seen[-1] != x).any(dim=1).tolist() == [True] * 10 + [False] * 10
    assert loss.item() == pytest.approx(F.cross_entropy(model(seen[-1]), y).item())


@pytest.mark.parametrize(("weight", "first", "second"), [(1.0, 10, 20), (0.5, 5, 10)])
def test_both_parts_of_the_combined_objective(linear, weight, first, second):
    model, _, _, x, y = linear
    seen = []
    model.register_forward_hook(lambda module, inputs, _: seen.append(inputs[0].detach()))
    objective = training.Combined(decoder="linear", eps=0.1, weight=weight)
    objective.loss(model, x, y, WIDE, generator())
    change = seen[-1] - x
    assert float(Linf.length(change[:first]).max()) <= 0.1 + 1e-6
    assert float(Linf.length(change[first:second]).max()) > 0.1
    assert (change != 0).any(dim=1).tolist() == [True] * second + [False] * (20 - second)


def test_letters_stay_letters_within_reach():
    letters = data.load("fonts", "train", 16)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    objective = training.OnManifold(steps=5, learning_rate=0.05, eta=0.1)
    moved = objective.perturbed(model, letters.x, letters.y, (0.0, 1.0), generator())
    again = objective.perturbed(model, letters.x, letters.y, (0.0, 1.0), generator())
    assert torch.equal(moved, again)
    decoder, codes = Fonts("train"), Fonts("train").codes(16)
    near = decoder.samples(codes.at(decoder.clamp(codes.z)))
    assert torch.equal(near, letters.x)
    assert float((moved - letters.x).abs().max()) > 0.1
    assert model.training


def test_transformations_move_any_image():
    digits = data.load("fonts", "test", 8)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    objective = training.OnManifold(decoder="transformations", steps=3, learning_rate=0.1)
    loss = objective.loss(model, digits.x, digits.y, (0.0, 1.0), generator())
    assert loss.isfinite()


@pytest.mark.parametrize("how", ["full", "first", "random"])
def test_regular_perturbations_have_the_same_variants(how):
    torch.manual_seed(1)
    model, x, y = nn.Linear(6, 2), torch.randn(20, 6), torch.arange(20) % 2
    objective = training.Adversarial(eps=0.5, steps=20, search=how, rule="adam", step_size=0.05)
    attacked = objective.perturbed(model, x, y, WIDE, generator())
    assert float(Linf.length(attacked - x).max()) <= 0.5 * (1 + 1e-6)
    fallen = margins(model, x, y) - margins(model, attacked, y)
    slope = (model.weight[0] - model.weight[1]).abs().sum().item()
    if how == "full":
        assert fallen.numpy() == pytest.approx(0.5 * slope, rel=1e-3)
    elif how == "random":
        assert fallen.abs().mean().item() < 0.4 * slope
    else:
        assert bool((fallen <= 0.5 * slope * (1 + 1e-5)).all())
        assert bool((fallen < 0.45 * slope).any())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"norm": L1}, "L2 and Linf"),
        ({"eta": 0.0}, "must be positive"),
        ({"steps": 0}, "must be positive"),
        ({"weight": 1.5}, "weight"),
        ({"search": "last"}, "search must be one of full, first, random"),
        ({"decoder": "nope"}, "unknown decoder"),
        ({"split": "nope"}, "split"),
    ],
)
def test_bad_settings(options, words):
    with pytest.raises(ValueError, match=words):
        training.make_objective("on-manifold", options)
    if "eta" in options or "decoder" in options:
        with pytest.raises(ValueError, match=words):
            training.make_objective("combined", options)


def test_bad_settings_of_regular_perturbations():
    with pytest.raises(ValueError, match="search must be"):
        training.Adversarial(eps=0.1, search="last")
    with pytest.raises(ValueError, match="rule must be"):
        training.Adversarial(eps=0.1, rule="newton")
