"""Residual networks for small images (He et al. 2016): a 3x3 stem and no first pooling."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from elbowroom.models.initialise import he_normal


class BasicBlock(nn.Module):
    """`relu(bn(conv(relu(bn(conv(x))))) + shortcut(x))` (He et al. 2016, Figure 5, left).

    The shortcut is the identity, or a 1x1 convolution with batch norm where the shape changes.
    Every activation is a module of its own, so that each has its own name in a traced network.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        y: Tensor = self.relu2(residual + self.shortcut(x))
        return y


def _resnet(
    blocks: Sequence[int], *, width: int, channels: int, size: int, classes: int
) -> nn.Sequential:
    """Stages of `blocks[i]` basic blocks with `width * 2^i` filters; all but the first halve."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv1"] = nn.Conv2d(channels, width, 3, padding=1, bias=False)
    layers["bn1"] = nn.BatchNorm2d(width)
    layers["relu1"] = nn.ReLU()
    inputs = width
    for i, count in enumerate(blocks, start=1):
        outputs, stride = width * 2 ** (i - 1), 1 if i == 1 else 2
        stage = [BasicBlock(inputs, outputs, stride)]
        stage += [BasicBlock(outputs, outputs, 1) for _ in range(count - 1)]
        layers[f"layer{i}"] = nn.Sequential(*stage)
        inputs, size = outputs, -(-size // stride)
    layers["pool"] = nn.AvgPool2d(size)
    layers["flatten"] = nn.Flatten()
    layers["linear"] = nn.Linear(inputs, classes)
    return he_normal(nn.Sequential(layers))


def resnet13(
    *, channels: int = 1, size: int = 28, classes: int = 10, width: int = 64
) -> nn.Sequential:
    """ResNet-13 of the Manifold paper (supplement F): inputs `(N, 1, 28, 28)`.

    A stem and three stages of two blocks, hence 13 convolutions on the main path, with 64, 128
    and 256 filters, as in the authors' code.
    """
    return _resnet((2, 2, 2), width=width, channels=channels, size=size, classes=classes)


def resnet18(
    *, channels: int = 3, size: int = 32, classes: int = 10, width: int = 64
) -> nn.Sequential:
    """ResNet-18 for CIFAR-10 (invariance thesis, 4.1): inputs `(N, 3, 32, 32)`.

    Four stages of two blocks with 64, 128, 256 and 512 filters. Its 557,056 ReLU units and two
    constraints per logit are the 557,076 constraints of Table 4.5.
    """
    return _resnet((2, 2, 2, 2), width=width, channels=channels, size=size, classes=classes)
