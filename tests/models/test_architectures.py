"""Every architecture: shapes, hand counts of parameters and units, and traceability."""

import itertools

import pytest
import torch
from torch import nn

from elbowroom import models
from elbowroom.models.residual import resnet18

MNIST, CIFAR = (1, 28, 28), (3, 32, 32)


def conv(inputs, outputs, kernel, bias=True):
    return outputs * (inputs * kernel**2 + bias)


def dense(*sizes):
    return sum((a + 1) * b for a, b in itertools.pairwise(sizes))


def block(inputs, outputs):
    """Two 3x3 convolutions and their batch norms; a 1x1 one with its own where the width grows."""
    count = conv(inputs, outputs, 3, bias=False) + conv(outputs, outputs, 3, bias=False)
    shortcut = conv(inputs, outputs, 1, bias=False) + 2 * outputs if inputs != outputs else 0
    return count + 4 * outputs + shortcut


LENET = conv(1, 20, 5) + conv(20, 50, 5) + dense(50 * 4 * 4, 500, 10)
FAB = (
    conv(3, 96, 3) + conv(96, 96, 3) + conv(96, 192, 3) + 4 * conv(192, 192, 3) + conv(192, 384, 3)
)
STAGES = block(64, 64) * 2 + block(64, 128) + block(128, 128) + block(128, 256) + block(256, 256)

# name: input shape, classes, parameters, ReLU units
EXPECTED = {
    "mlp": (MNIST, 10, dense(784, 100, 10), 100),
    "lenet5": (MNIST, 10, LENET, 500),
    "lenet5-lrn1": (MNIST, 10, LENET, 500),
    "lenet5-lrn2": (MNIST, 10, LENET, 500),
    "lenet5-lrn3": (MNIST, 10, LENET, 500),
    "madry-mnist": (
        MNIST,
        10,
        conv(1, 16, 5) + conv(16, 32, 5) + dense(32 * 7 * 7, 1024, 10),
        16 * 28 * 28 + 32 * 14 * 14 + 1024,
    ),
    "wong-kolter-mnist": (
        MNIST,
        10,
        conv(1, 16, 4) + conv(16, 32, 4) + dense(32 * 7 * 7, 100, 10),
        16 * 14 * 14 + 32 * 7 * 7 + 100,
    ),
    "raghunathan-mnist": (MNIST, 10, dense(784, 500, 10), 500),
    "gts-cnn": (
        CIFAR,
        43,
        conv(3, 16, 4) + conv(16, 32, 4) + dense(32 * 8 * 8, 100, 43),
        16 * 16 * 16 + 32 * 8 * 8 + 100,
    ),
    "fonts-cnn": (
        MNIST,
        10,
        # Batch norm has a scale and a shift per channel.
        conv(1, 16, 4) + conv(16, 32, 4) + conv(32, 64, 4) + 2 * 112 + dense(64 * 9, 100, 10),
        16 * 14 * 14 + 32 * 7 * 7 + 64 * 3 * 3 + 100,
    ),
    "fonts-mlp": (MNIST, 10, dense(784, 128, 128, 128, 128, 10) + 4 * 2 * 128, 4 * 128),
    "celeba-cnn": (
        (3, 56, 48),
        2,
        conv(3, 16, 4)
        + conv(16, 32, 4)
        + conv(32, 64, 4)
        + conv(64, 128, 4)
        + 2 * 240
        + dense(128 * 3 * 3, 20, 2),
        16 * 28 * 24 + 32 * 14 * 12 + 64 * 7 * 6 + 128 * 3 * 3 + 20,
    ),
    "fonts-vgg": (
        MNIST,
        10,
        conv(1, 64, 3) + conv(64, 128, 3) + dense(128 * 7 * 7, 1024, 1024, 10),
        64 * 28 * 28 + 128 * 14 * 14 + 2 * 1024,
    ),
    "fab-cifar": (CIFAR, 10, FAB + dense(384 * 4 * 4, 1200, 10), 375_984),
    "cifar-nin": (
        CIFAR,
        10,
        # By block: 14,592 + 30,880 + 15,456; 460,992 + 2 x 37,056; 331,968 + 37,056 + 1,930.
        966_986,
        # Pooling windows reach over the edge: 32 becomes 16 and then 8.
        (192 + 160 + 96) * 32**2 + 3 * 192 * 16**2 + (192 + 192 + 10) * 8**2,
    ),
    "resnet13": (
        MNIST,
        10,
        conv(1, 64, 3, bias=False) + 128 + STAGES + dense(256, 10),
        64 * 28 * 28 * 5 + 128 * 14 * 14 * 4 + 256 * 7 * 7 * 4,
    ),
    "resnet18": (
        CIFAR,
        10,
        conv(3, 64, 3, bias=False)
        + 128
        + STAGES
        + block(256, 512)
        + block(512, 512)
        + dense(512, 10),
        557_056,
    ),
}


def relu_units(model, shape):
    """The number of ReLU units that one sample passes through."""
    counts = []
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(lambda _, __, y: counts.append(y[0].numel()))
    model.eval()(torch.zeros(1, *shape))
    return sum(counts)


def test_the_table_covers_every_model():
    assert set(EXPECTED) == set(models.MODELS)


@pytest.mark.parametrize("name", EXPECTED)
def test_shapes_parameters_units(name):
    shape, classes, parameters, units = EXPECTED[name]
    model = models.load(name)
    assert model(torch.rand(2, *shape)).shape == (2, classes)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert relu_units(model, shape) == units


def test_network_in_network_starts_alive():
    """A class whose last ReLU is off everywhere would never learn."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, x = models.load("cifar-nin"), torch.rand(3, *CIFAR)
    assert (model(x) > 0).all()


@pytest.mark.parametrize("name", EXPECTED)
def test_traces_to_the_same_logits(name):
    model = models.load(name)
    x = torch.rand(2, *EXPECTED[name][0])
    traced = torch.fx.symbolic_trace(model)
    assert torch.equal(traced(x), model(x))


@pytest.mark.parametrize(("name", "constraints"), [("fab-cifar", 376_004), ("resnet18", 557_076)])
def test_constraints_of_table_4_5(name, constraints):
    # Invariance thesis, 4.3.5: each ReLU unit is one constraint, each logit two.
    assert relu_units(models.build(name), CIFAR) + 2 * 10 == constraints


def test_resnet18_takes_other_channels_sizes_and_classes():
    model = resnet18(channels=1, size=28, classes=7, width=4).eval()
    assert model(torch.rand(3, 1, 28, 28)).shape == (3, 7)


def test_mlp_flattens_and_applies_its_activation():
    model = models.build("mlp", sizes=(4, 5, 3), activation="tanh")
    first, last = model[1], model[3]
    x = torch.rand(6, 2, 2)
    expected = last(torch.tanh(first(x.flatten(1))))
    assert torch.equal(model(x), expected)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        model(torch.rand(6, 5))


def test_madry_mnist_has_the_challenge_widths_as_an_option():
    model = models.build("madry-mnist", filters=(32, 64))
    expected = conv(1, 32, 5) + conv(32, 64, 5) + dense(64 * 7 * 7, 1024, 10)
    assert sum(p.numel() for p in model.parameters()) == expected


def test_lrn_is_the_formula_of_the_paper():
    lrn = models.build("lenet5-lrn1").lrn1
    x = 30 * torch.rand(1, 20, 3, 3, dtype=torch.float64)
    squares = nn.functional.pad(x**2, (0, 0, 0, 0, 2, 2))
    sums = sum(squares[:, i : i + 20] for i in range(5))
    assert torch.allclose(lrn(x), x / (2 + 1e-4 * sums) ** 0.75, rtol=1e-12)


def test_fonts_cnn_has_batch_norm_after_relu_and_he_weights():
    torch.manual_seed(0)
    model = models.build("fonts-cnn")
    kinds = [type(layer).__name__ for layer in list(model)[:9]]
    assert kinds == ["Conv2d", "ReLU", "BatchNorm2d"] * 3
    # He et al. by fan-out: the variance of a weight is 2 / (filters * kernel area).
    assert model.conv3.weight.std().item() == pytest.approx((2 / (64 * 16)) ** 0.5, rel=0.02)
    assert not model.conv3.bias.any()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mlp", {"sizes": (4,)}, "at least two positive integers"),
        ("mlp", {"sizes": (4, 0, 3)}, "at least two positive integers"),
        ("mlp", {"activation": "step"}, "unknown activation 'step'; choose relu, leaky-relu"),
        ("gts-cnn", {"size": 30}, "multiple of 4"),
        ("fonts-cnn", {"size": 7}, "at least 8"),
        ("fonts-vgg", {"size": 3}, "at least 4"),
        ("fonts-cnn", {"classses": 7}, "its options: channels, size, classes, hidden"),
        ("fonts-cn", {}, "did you mean fonts-cnn"),
        ("zzz", {}, r"unknown model 'zzz'; known models: mlp, lenet5, .*package\.module:callable"),
        ("torch:tensor", {"data": 1}, "returned a Tensor, not a torch.nn.Module"),
        ("torch.nn:Lineer", {}, "has no attribute 'Lineer'"),
    ],
)
def test_bad_specs_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        models.build(name, **options)


def test_a_reference_builds_any_module():
    model = models.load("torch.nn:Linear", in_features=3, out_features=2)
    assert isinstance(model, nn.Linear)
    assert not model.training
