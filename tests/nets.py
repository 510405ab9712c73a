"""Small networks that exercise every operation, in module and in functional style."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def randomise_statistics(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give batch norms running statistics and weights that are not the identity."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor, low, high in (
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.3, 2.0),
                (module.weight.data, -1.5, 1.5),
                (module.bias.data, -0.5, 0.5),
            ):
                tensor.copy_(torch.empty_like(tensor).uniform_(low, high, generator=generator))
    return model.eval()


class FunctionalResNet(nn.Module):
    """Residual block, batch norm, max and average pooling, written with functions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(4)
        self.shortcut = nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        x = F.leaky_relu(self.bn2(self.conv2(x)) + self.shortcut(x), 0.1)
        x = F.dropout(x, 0.5, training=self.training)
        x = x.mean((2, 3))
        return self.head(x.view(x.size(0), -1))


class DenseBlock(nn.Module):
    """Dense (concatenating) connections, with a constant and a difference in between."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 3, 3, padding=1)
        self.second = nn.Conv2d(4, 2, 3, padding="same")
        self.pool = nn.AvgPool2d(2, count_include_pad=False, padding=1)
        self.head = nn.Linear(6 * 5 * 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        a = torch.cat([x, torch.relu(self.first(2 * x - 0.5))], dim=1)
        b = torch.cat([a, F.hardtanh(self.second(a))], 1)
        return self.head(torch.flatten(self.pool(b), 1))


class Strided1d(nn.Module):
    """One-dimensional layers, PReLU and clamping."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(2, 6, 4, stride=2, padding=1, groups=2),
            nn.PReLU(6, init=0.2),
            nn.BatchNorm1d(6),
            nn.MaxPool1d(2),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(12, 5),
            nn.ReLU6(),
            nn.Linear(5, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        return -self.body(x.clamp(min=0.1)).abs() / 2.0


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3)
    )


PIECEWISE_AFFINE: dict[str, tuple[type[nn.Module] | object, tuple[int, ...]]] = {
    "mlp": (mlp, (1, 8, 8)),
    "resnet": (FunctionalResNet, (1, 8, 8)),
    "dense": (DenseBlock, (1, 8, 8)),
    "1d": (Strided1d, (2, 8)),
}


def make(name: str, seed: int = 0) -> tuple[nn.Module, tuple[int, ...]]:
    """A piecewise affine network in float64 and the shape of its inputs."""
    factory, shape = PIECEWISE_AFFINE[name]
    torch.manual_seed(seed)
    model = factory().double()  # type: ignore[operator]
    return randomise_statistics(model, seed), shape
