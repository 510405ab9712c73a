"""What is on the list traces to the same function; what is not is refused by name."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from elbowroom.graph import Graph, UnsupportedOperationError, trace
from elbowroom.graph.evaluate import evaluate
from nets import PIECEWISE_AFFINE, make


def check_same_function(model: nn.Module, shape: tuple[int, ...]) -> Graph:
    model = model.double().eval()
    graph = trace(model, shape, dtype=torch.float64)
    x = 3 * torch.randn(7, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    assert torch.allclose(evaluate(graph, x)[-1], model(x), rtol=1e-12, atol=1e-12)
    return graph


@pytest.mark.parametrize("name", PIECEWISE_AFFINE)
def test_networks(name):
    model, shape = make(name)
    check_same_function(model, shape)


ACTIVATIONS = [
    nn.ReLU(), nn.LeakyReLU(0.2), nn.ReLU6(), nn.Hardtanh(-0.5, 2.0), nn.PReLU(), nn.PReLU(4),
    nn.Tanh(), nn.Sigmoid(), nn.Softplus(beta=2.0), nn.ELU(0.7), nn.SiLU(), nn.GELU("tanh"),
]  # fmt: skip


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_activations(activation):
    check_same_function(nn.Sequential(nn.Linear(3, 4), activation, nn.Linear(4, 2)), (3,))


FUNCTIONS = {
    "relu method": lambda x: x.relu(),
    "relu6": F.relu6,
    "clamp both": lambda x: torch.clamp(x, -0.3, 0.4),
    "clamp max": lambda x: x.clamp(max=0.2),
    "abs": torch.abs,
    "softplus": lambda x: F.softplus(x, 3.0),
    "gelu": F.gelu,
    "arithmetic": lambda x: (1.0 - x) * 3 / 4 + x.neg() + torch.add(x, x, alpha=2),
    "weighted difference": lambda x: torch.sub(F.relu(x), torch.tanh(x), alpha=0.5),
    "reshapes": lambda x: x.unsqueeze(1).squeeze(1).reshape(x.shape[0], -1).contiguous(),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            return FUNCTIONS[name](self.linear(x))

    check_same_function(Net(), (3,))


LAYERS = {
    "grouped and dilated": nn.Conv2d(2, 4, 3, groups=2, dilation=2, padding=2),
    "same padding": nn.Conv2d(2, 3, (3, 5), padding="same"),
    "pools": nn.Sequential(nn.MaxPool2d(2, ceil_mode=True), nn.AvgPool2d(3, 2, 1)),
    "adaptive": nn.AdaptiveAvgPool2d((3, 1)),
    "lrn": nn.LocalResponseNorm(5, 1e-4, 0.75, 2.0),
    "unflatten": nn.Sequential(nn.Flatten(), nn.Unflatten(1, (3, 36))),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name):
    check_same_function(nn.Sequential(nn.Conv2d(1, 2, 1), LAYERS[name], nn.Flatten()), (1, 9, 6))


def test_weight_parametrisations_are_followed():
    layer = torch.nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
    check_same_function(nn.Sequential(layer), (3,))


class _Squares(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x


class _Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class _MixesTheBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(1, -1)


REFUSED = {
    "softmax": (nn.Softmax(dim=1), r"layer '1' \(Softmax\)"),
    "recurrent": (nn.GRU(4, 4), r"layer '1' \(GRU\)"),
    "reflection": (nn.Conv1d(1, 1, 3, padding=1, padding_mode="reflect"), "padding_mode='reflect'"),
    "batch statistics": (nn.BatchNorm1d(4, track_running_stats=False), "running statistics"),
    "product": (_Squares(), "product of two tensors"),
    "control flow": (_Branches(), "cannot be traced"),
    "batch": (_MixesTheBatch(), "mixes the samples"),
    "bilinear": (nn.Sequential(nn.Linear(4, 4), nn.Hardswish()), r"layer '1.1' \(Hardswish\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_unknown_layers_are_refused_by_name(name):
    layer, message = REFUSED[name]
    front: nn.Module = nn.Unflatten(1, (1, 4)) if name == "reflection" else nn.Identity()
    model = nn.Sequential(front, layer).eval()
    with pytest.raises(UnsupportedOperationError, match=message):
        trace(model, (4,))


def test_a_layer_that_does_not_do_what_its_type_says_is_noticed():
    model = nn.Sequential(nn.Linear(3, 2))
    model[0].register_forward_hook(lambda module, inputs, output: output + 1)
    with pytest.raises(UnsupportedOperationError, match="differs from the model"):
        trace(model, (3,))
