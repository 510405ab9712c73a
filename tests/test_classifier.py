"""What the classifier checks, counts and restores."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from elbowroom import Classifier
from elbowroom.attacks import DDN, FGV, PGD
from elbowroom.certificates import GlobalLipschitz
from elbowroom.graph import UnsupportedOperationError
from elbowroom.graph.evaluate import evaluate
from elbowroom.invariance import AdamOnLogits
from elbowroom.results import Cost
from nets import make


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 3))


X = torch.rand(5, 1, 3, 4, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 0, 1])


def _spoiled(index, value):
    x = X.clone()
    x[index] = value
    return x


BAD_INPUTS = {
    "a NaN": (_spoiled((2, 0, 1, 1), float("nan")), Y, "sample 2 has NaN"),
    "infinite": (_spoiled((1, 0, 0, 0), float("inf")), Y, "sample 1 has NaN or infinite"),
    "one image": (X[0, 0, 0], Y, r"pass x\[None\]"),
    "empty": (X[:0], Y[:0], "non-empty batch"),
    "wrong shape": (torch.rand(5, 1, 4, 4), Y, r"rejects inputs of shape \(5, 1, 4, 4\)"),
    "uint8": ((255 * X).to(torch.uint8), Y, "divide images by 255"),
    "integers": (X.long(), Y, "must be floating point"),
    "double": (X.double(), Y, r"Classifier\(..., dtype=torch.float64\)"),
    "grey levels": (255 * X, Y, r"sample 0 has values in \[.*\], outside the input bounds \[0, 1"),
    "labels out of range": (X, Y + 7, r"labels must lie in 0..2 .* got 7..9"),
    "negative labels": (X, Y - 1, r"got -1..1"),
    "labels of another length": (X, Y[:3], r"shape \(5,\), got \(3,\)"),
    "one-hot labels": (X, torch.eye(3)[Y], "tensor of integers"),
    "another device": (X.to("meta"), Y, "inputs are on meta but the model is on cpu"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_INPUTS)
@pytest.mark.parametrize("method", [DDN(steps=2), GlobalLipschitz()], ids=["attack", "certificate"])
def test_bad_inputs_are_named_with_a_remedy(name, method):
    x, y, message = BAD_INPUTS[name]
    with pytest.raises(ValueError, match=message):
        method(Classifier(_model()), x, y)


def test_a_list_is_not_a_tensor():
    with pytest.raises(TypeError, match=r"torch\.Tensor, not list"):
        DDN()(_model(), [[0.0]])


class _Returns(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


BAD_MODELS = {
    "NaN logits": (
        lambda x: x.flatten(1)[:, :3] / 0.0 * 0.0,
        "NaN or infinite logits for sample 0",
    ),
    "features, not logits": (lambda x: x, r"shape \(5, classes\), got \(5, 1, 3, 4\)"),
    "one logit": (lambda x: x.flatten(1)[:, :1], "two-class model needs two"),
    "a tuple": (lambda x: (x, x), "got tuple"),
    "lost samples": (lambda x: x.flatten(1)[:2], r"got \(2, 12\)"),
    "batch-dependent": (
        lambda x: x.flatten(1)[:, :3] - x.flatten(1)[:, :3].mean(dim=0),
        "depend on the other samples of the batch",
    ),
}


@pytest.mark.parametrize("name", BAD_MODELS)
def test_models_that_are_no_classifiers_are_named(name):
    function, message = BAD_MODELS[name]
    with pytest.raises(ValueError, match=message):
        DDN(steps=2)(Classifier(_Returns(function)), X, Y)


def test_batch_statistics_are_a_batch_dependence():
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(12, track_running_stats=False))
    with pytest.raises(ValueError, match="depend on the other samples"):
        Classifier(model).validate(X)


def test_an_unsupported_layer_is_named_by_the_certificate_only():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.Hardswish(), nn.Linear(4, 3))
    with pytest.raises(UnsupportedOperationError, match=r"layer '2' \(Hardswish\)"):
        GlobalLipschitz()(model, X, Y)
    assert DDN(steps=5)(model, X, Y).distance.shape == (5,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bounds": (1.0, 0.0)}, "lower <= upper"),
        ({"std": 0.0}, "std must be positive"),
        ({"bounds": (torch.zeros(2), torch.ones(2))}, "bounds are given for samples of shape"),
    ],
)
def test_bad_settings_of_the_classifier(options, message):
    with pytest.raises(ValueError, match=message):
        Classifier(_model(), **options).validate(X)


def test_bounds_tolerate_a_few_ulps():
    x, _ = Classifier(_model()).validate(_spoiled((0, 0, 0, 0), 1.0 + 2e-7))
    assert float(x.max()) == 1.0


def test_bounds_per_feature():
    upper = torch.full((1, 3, 4), 2.0)
    upper[0, 0, 0] = 0.5
    clf = Classifier(_model(), bounds=(torch.zeros(1, 3, 4), upper))
    x = _spoiled((slice(None), 0, 0, 0), 0.5)
    moved = FGV(max_eps=5.0)(clf, x, clf.logits(x).argmax(1)).adversarial
    assert float(moved[:, 0, 0, 0].max()) <= 0.5
    assert float(moved.max()) <= 2.0
    with pytest.raises(ValueError, match="outside the input bounds"):
        clf.validate(_spoiled((0, 0, 0, 0), 0.6))


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(_model(), nn.BatchNorm1d(3), nn.Dropout(0.5))
    model.train()
    model[1].eval()
    model[0][1].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    for method in (DDN(steps=3), PGD(eps=1.0, steps=2)):
        method(model, X)
    AdamOnLogits(steps=3)(model, start=X, toward=X.flip(0))
    assert model.training
    assert not model[1].training
    assert not model[0][1].weight.requires_grad
    assert model[0][1].bias.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_model_is_left_as_it_was_even_after_an_error():
    model = _model().train()
    with pytest.raises(ValueError, match="NaN"):
        DDN()(model, _spoiled((0, 0, 0, 0), float("nan")))
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_passes_are_counted_per_sample():
    clf = Classifier(_model())
    clf.logits(X)
    assert clf.cost == Cost(forward=5)
    clf.gradient(X, lambda logits: logits[:, 0])
    assert clf.cost == Cost(forward=10, backward=5)
    clf.jacobian_rows(X, torch.tensor([[0, 1, 2]]).expand(5, 3))
    assert clf.cost == Cost(forward=15, backward=10, vjp=10)
    clf.jvp(X, X)
    assert clf.cost == Cost(forward=20, backward=10, vjp=10, jvp=5)


def test_products_with_the_jacobian_match_finite_differences():
    model, shape = make("resnet")
    clf = Classifier(model)
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(3, *shape, generator=generator, dtype=torch.float64)
    v = torch.randn(3, *shape, generator=generator, dtype=torch.float64)
    step = 1e-7
    difference = (clf.logits(x + step * v) - clf.logits(x - step * v)) / (2 * step)
    _, product = clf.jvp(x, v)
    assert torch.allclose(product, difference, atol=1e-5)
    _, rows = clf.jacobian_rows(x, torch.tensor([[0, 2]]).expand(3, 2))
    along = (rows * v[:, None]).flatten(2).sum(dim=2)
    assert torch.allclose(along, product[:, [0, 2]], atol=1e-10)
    _, pulled = clf.vjp(x, torch.tensor([[1.0, 0.0, 0.0]]).double().expand(3, 3))
    assert torch.allclose(pulled, rows[:, 0], atol=1e-12)


def test_normalisation_happens_inside():
    model = _model()
    clf = Classifier(model, mean=[0.2], std=[0.5])
    assert torch.allclose(clf.logits(X), model((X - 0.2) / 0.5), atol=1e-6)


def test_normalisation_can_be_per_channel_in_either():
    x = torch.rand(3, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(nn.Flatten(), nn.Linear(8, 3))
    for mean, std in ((0.1, [0.5, 0.25]), ([0.1, 0.3], 0.5), (None, [0.5, 0.25]), ([0.2], [0.5])):
        shift = torch.tensor(0.0 if mean is None else mean).reshape(-1, 1, 1)
        scaled = (x - shift) / torch.tensor(std).reshape(-1, 1, 1)
        clf = Classifier(model, mean=mean, std=std)
        assert torch.allclose(clf.logits(x), model(scaled), atol=1e-6)
        traced = evaluate(clf.graph((2, 2, 2)), x)[-1]
        assert torch.allclose(traced, model(scaled), atol=1e-6)
    with pytest.raises(
        ValueError, match=r"as many as the inputs have channels \(2\), not 3 numbers"
    ):
        Classifier(model, mean=[0.1, 0.2, 0.3]).validate(x)


def test_another_precision_is_a_copy():
    model = _model()
    clf = Classifier(model, dtype=torch.float64)
    assert clf.logits(X.double()).dtype == torch.float64
    assert model[1].weight.dtype == torch.float32
