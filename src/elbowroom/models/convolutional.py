"""Plain convolutional networks for traffic signs, FONTS and CIFAR-10."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from elbowroom.models.initialise import he_normal
from elbowroom.models.mnist import strided_cnn


def gts_cnn(*, channels: int = 3, size: int = 32, classes: int = 43) -> nn.Sequential:
    """Two convolutions (16 and 32 filters) of stride 2 and two dense layers (LRA, 5.1, GTS).

    Inputs `(N, 3, 32, 32)`. The paper gives neither kernels nor dense width: 4x4 and 100 units
    here, as in Wong and Kolter's network, from which its description does not differ.
    """
    return strided_cnn(channels=channels, size=size, classes=classes)


def fonts_cnn(
    *, channels: int = 1, size: int = 28, classes: int = 10, hidden: int = 100, width: int = 16
) -> nn.Sequential:
    """The classifier of the Manifold paper (3.1): inputs `(N, 1, 28, 28)`.

    Three 4x4 convolutions of stride 2 with 16, 32 and 64 filters, each followed by ReLU and then
    batch norm, and two dense layers. The text gives no dense width: 100 units, as in the authors'
    code (ten per class), which also keeps the weights below 450 kB. Between the dense layers is a
    ReLU; that code has none there, which would make the two layers one.

    width: filters of the first layer; each further one has twice as many.
    """
    if size < 8:
        raise ValueError(f"size must be at least 8, as three layers halve it, got {size}")
    return _halving((width, 2 * width, 4 * width), channels, (size, size), hidden, classes)


def celeba_cnn(*, classes: int = 2, hidden: int = 20) -> nn.Sequential:
    """The classifier of the Manifold paper for CelebA (3.1): inputs `(N, 3, 56, 48)`.

    As `fonts_cnn`, with a fourth layer, of 128 filters; the dense layer has ten units per class.
    """
    return _halving((16, 32, 64, 128), 3, (56, 48), hidden, classes)


def _halving(
    widths: tuple[int, ...], channels: int, sides: tuple[int, int], hidden: int, classes: int
) -> nn.Sequential:
    """4x4 convolutions of stride 2, each with ReLU and then batch norm, and two dense layers."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i, filters in enumerate(widths, start=1):
        layers[f"conv{i}"] = nn.Conv2d(channels, filters, 4, stride=2, padding=1)
        layers[f"relu{i}"] = nn.ReLU()
        layers[f"bn{i}"] = nn.BatchNorm2d(filters)
        channels = filters
    height, width = (side >> len(widths) for side in sides)
    layers["flatten"] = nn.Flatten()
    layers["fc1"] = nn.Linear(channels * height * width, hidden)
    layers[f"relu{len(widths) + 1}"] = nn.ReLU()
    layers["fc2"] = nn.Linear(hidden, classes)
    return he_normal(nn.Sequential(layers))


def fonts_vgg(
    *, channels: int = 1, size: int = 28, classes: int = 10, hidden: int = 1024
) -> nn.Sequential:
    """VGG of the Manifold paper (supplement F): inputs `(N, 1, 28, 28)`.

    The first two stages of model A (Simonyan and Zisserman 2014), each a 3x3 convolution (64 and
    128 filters), ReLU and max pooling, and three dense layers of which two have 1,024 units; no
    dropout.
    """
    if size < 4:
        raise ValueError(f"size must be at least 4, as two poolings halve it, got {size}")
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i, filters in enumerate((64, 128), start=1):
        layers[f"conv{i}"] = nn.Conv2d(channels, filters, 3, padding=1)
        layers[f"relu{i}"] = nn.ReLU()
        layers[f"pool{i}"] = nn.MaxPool2d(2)
        channels, size = filters, size // 2
    layers["flatten"] = nn.Flatten()
    layers["fc1"] = nn.Linear(channels * size**2, hidden)
    layers["relu3"] = nn.ReLU()
    layers["fc2"] = nn.Linear(hidden, hidden)
    layers["relu4"] = nn.ReLU()
    layers["fc3"] = nn.Linear(hidden, classes)
    return he_normal(nn.Sequential(layers))


def fab_cifar(*, classes: int = 10) -> nn.Sequential:
    """The 8-convolution network of Croce and Hein for CIFAR-10: inputs `(N, 3, 32, 32)`.

    3x3 convolutions with padding 1 and 96, 96, 192 (five times) and 384 filters, the third, sixth
    and eighth of stride 2, then dense 1200 and 10 (invariance thesis, 4.1; its "92 filters" is a
    slip). It has 375,984 ReLU units; with two constraints for each of the ten logits these are
    the 376,004 constraints of Table 4.5.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels = 3
    for i, filters in enumerate((96, 96, *[192] * 5, 384), start=1):
        stride = 2 if i in (3, 6, 8) else 1
        layers[f"conv{i}"] = nn.Conv2d(channels, filters, 3, stride=stride, padding=1)
        layers[f"relu{i}"] = nn.ReLU()
        channels = filters
    layers["flatten"] = nn.Flatten()
    layers["fc1"] = nn.Linear(channels * 4 * 4, 1200)
    layers["relu9"] = nn.ReLU()
    layers["fc2"] = nn.Linear(1200, classes)
    return nn.Sequential(layers)


def cifar_nin(*, classes: int = 10, dropout: float = 0.5) -> nn.Sequential:
    """Network-in-Network for CIFAR-10 as Caffe's model zoo has it: inputs `(N, 3, 32, 32)`.

    Lin, Chen and Yan 2013; CIFAR-NIN of the Bounds thesis (5.1.2). Three blocks, each of a
    convolution and two 1x1 convolutions with ReLU: 5x5 with 192, 160 and 96 filters, 5x5 with 192,
    192 and 192, 3x3 with 192, 192 and `classes`. Between them are max pooling 3/2, average pooling
    3/2 (windows reach over the edge, as in Caffe) and dropout; the mean over each of the last maps
    is a logit. 966,986 parameters.

    The ReLU before the last pooling is easily dead for good, so that networks start alive: weights
    as He et al. have them, by fan-in, a bias of 1 at the end, and at the beginning one that takes
    the place of the mean that Caffe subtracts from images (0.5 here, of values in [0, 1]).
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels, number = 3, 0
    blocks = ((5, (192, 160, 96)), (5, (192, 192, 192)), (3, (192, 192, classes)))
    for block, (kernel, filters) in enumerate(blocks, start=1):
        for place, count in enumerate(filters):
            number += place > 0
            name, size = (f"cccp{number}", 1) if place else (f"conv{block}", kernel)
            layers[name] = nn.Conv2d(channels, count, size, padding=size // 2)
            layers[f"relu_{name}"] = nn.ReLU()
            channels = count
        if block == 1:
            layers["pool1"] = nn.MaxPool2d(3, 2, ceil_mode=True)
        elif block == 2:
            layers["pool2"] = nn.AvgPool2d(3, 2, ceil_mode=True)
        if block < 3:
            layers[f"drop{block}"] = nn.Dropout(dropout)
    layers["pool3"] = nn.AvgPool2d(8)
    layers["flatten"] = nn.Flatten()
    network = nn.Sequential(layers)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
    first, last = network.get_submodule("conv1"), network.get_submodule("cccp6")
    assert isinstance(first, nn.Conv2d)
    assert isinstance(last, nn.Conv2d)
    assert first.bias is not None
    assert last.bias is not None
    with torch.no_grad():
        first.bias.copy_(-0.5 * first.weight.sum(dim=(1, 2, 3)))
        last.bias.fill_(1.0)
    return network
