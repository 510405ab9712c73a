"""The convolutional networks that the papers measure on MNIST: inputs `(N, 1, 28, 28)`."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn


def _lenet(lrn: dict[int, nn.Module], classes: int) -> nn.Sequential:
    """Caffe's LeNet with the layer `lrn[i]` after pooling operation i."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv1"] = nn.Conv2d(1, 20, 5)
    layers["pool1"] = nn.MaxPool2d(2)
    if 1 in lrn:
        layers["lrn1"] = lrn[1]
    layers["conv2"] = nn.Conv2d(20, 50, 5)
    layers["pool2"] = nn.MaxPool2d(2)
    if 2 in lrn:
        layers["lrn2"] = lrn[2]
    layers["flatten"] = nn.Flatten()
    layers["fc1"] = nn.Linear(50 * 4 * 4, 500)
    layers["relu"] = nn.ReLU()
    layers["fc2"] = nn.Linear(500, classes)
    return nn.Sequential(layers)


def _lrn(size: int, alpha: float, beta: float, k: float) -> nn.Module:
    """`x / (k + alpha * sum over `size` neighbouring channels of x^2)^beta`.

    That is the formula of Krizhevsky et al. 2012 and of the Bounds thesis (5.2.4). Caffe and
    torch divide alpha by the size, so torch is given `size * alpha`.
    """
    return nn.LocalResponseNorm(size, alpha=size * alpha, beta=beta, k=k)


def lenet5(*, classes: int = 10) -> nn.Sequential:
    """LeNet-5 as Caffe ships it: 20 and 50 filters, dense 500 (Bounds thesis, 5.4).

    The convolutions have no activation: max pooling and one ReLU are its only non-linearities.
    """
    return _lenet({}, classes)


def lenet5_lrn1(
    *, classes: int = 10, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0
) -> nn.Sequential:
    """LeNet-LRN1: local response normalisation after the first pooling (Bounds thesis, Table 5.3).

    The thesis does not give the constants; these are those of AlexNet (Krizhevsky et al. 2012).
    """
    return _lenet({1: _lrn(size, alpha, beta, k)}, classes)


def lenet5_lrn2(
    *, classes: int = 10, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0
) -> nn.Sequential:
    """LeNet-LRN2: as `lenet5_lrn1`, but after the second pooling."""
    return _lenet({2: _lrn(size, alpha, beta, k)}, classes)


def lenet5_lrn3(
    *, classes: int = 10, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0
) -> nn.Sequential:
    """LeNet-LRN3: as `lenet5_lrn1`, but after both pooling operations."""
    return _lenet({place: _lrn(size, alpha, beta, k) for place in (1, 2)}, classes)


def madry_mnist(
    *, filters: Sequence[int] = (16, 32), hidden: int = 1024, classes: int = 10
) -> nn.Sequential:
    """Two convolutions, each with ReLU and 2x2 max-pool, and two dense layers (LRA, 5.1).

    The LRA paper gives 16 and 32 filters, and names the models of the MNIST challenge (Madry et
    al. 2018), whose released code has 32 and 64: `filters=(32, 64)`. Kernel size 5 with equal
    padding and the 1024 hidden units are those of that code.
    """
    first, second = filters
    return nn.Sequential(
        OrderedDict[str, nn.Module](
            conv1=nn.Conv2d(1, first, 5, padding=2),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(first, second, 5, padding=2),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(second * 7 * 7, hidden),
            relu3=nn.ReLU(),
            fc2=nn.Linear(hidden, classes),
        )
    )


def strided_cnn(*, channels: int, size: int, classes: int) -> nn.Sequential:
    """Convolutions with 16 and 32 filters 4x4 of stride 2, dense layers with 100 and `classes`.

    Inputs are `(N, channels, size, size)`; `size` is a multiple of 4.
    """
    if size % 4:
        raise ValueError(f"size must be a multiple of 4, as two layers halve it, got {size}")
    return nn.Sequential(
        nn.Conv2d(channels, 16, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * (size // 4) ** 2, 100),
        nn.ReLU(),
        nn.Linear(100, classes),
    )


def wong_kolter_mnist() -> nn.Sequential:
    """The provably robust network of Wong and Kolter 2018, as measured in LRA, 5.2.

    An unnamed sequence, so that its published weights, with keys `0.`, `2.`, `5.` and `7.`, load.
    """
    return strided_cnn(channels=1, size=28, classes=10)
