"""LPIPS: the perceptual distance of Zhang et al. 2018, on AlexNet.

The published weights are two files, neither of which comes with this package:

- the backbone, AlexNet trained on ImageNet, as torchvision saves it:
  https://download.pytorch.org/models/alexnet-owt-7be5be79.pth (233 MB);
- the linear heads, 6 kB, trained on human judgements (BSD-2-Clause):
  https://github.com/richzhang/PerceptualSimilarity, lpips/weights/v0.1/alex.pth.

`elbowroom.models.read_state(path)` reads both; no code in them is run, and neither torchvision nor
the lpips package is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from elbowroom.classifier import Classifier
from elbowroom.norms import L2, Norm
from elbowroom.perception.distance import VectorDistance, require_images
from elbowroom.perception.features import FeatureDistance

# The scaling layer of LPIPS, for pixels in [-1, 1].
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
LAYERS = ("features.1", "features.4", "features.7", "features.9", "features.11")
SMALLEST = 31  # pixels; smaller images leave the second pooling nothing


@dataclass(frozen=True, eq=False)
class LPIPS(VectorDistance):
    """Learned perceptual image patch similarity: weighted distances of AlexNet's features.

    Zhang et al. 2018, the "lin" variant, which NSPGD thresholds at 0.03. The heads weight squared
    differences, as in the authors' code; their eq. 1 would square the weights too.
    Images `(N, 3, H, W)`, or `(N, 1, H, W)` shown as grey, of at least 31x31 pixels.

    backbone: state of torchvision's AlexNet (`features.0.weight`, ...); its classifier is not
              used and may be missing.
    heads:    state of the linear heads (`lin0.model.1.weight`, ...); all channels alike if None,
              the uncalibrated distance of the paper.
    bounds:   smallest and largest value a pixel can have.
    """

    backbone: Mapping[str, Tensor]
    heads: Mapping[str, Tensor] | None = None
    bounds: tuple[float, float] = field(default=(0.0, 1.0), kw_only=True)
    norm: Norm = field(default=L2, init=False)
    features: FeatureDistance = field(init=False, repr=False)

    def __post_init__(self) -> None:
        network = alexnet_features(self.backbone)
        # x in [lower, upper] becomes 2 (x - lower) / (upper - lower) - 1, then the scaling layer.
        half = (self.bounds[1] - self.bounds[0]) / 2
        middle = self.bounds[0] + half
        clf = Classifier(
            network,
            bounds=self.bounds,
            mean=[middle + half * shift for shift in SHIFT],
            std=[half * scale for scale in SCALE],
            name="AlexNet",
        )
        weights = None if self.heads is None else head_weights(self.heads)
        features = FeatureDistance(clf, LAYERS, kind="lpips", weights=weights)
        object.__setattr__(self, "features", features)

    @property
    def name(self) -> str:
        return "LPIPS (AlexNet)" if self.heads is not None else "LPIPS (AlexNet, no heads)"

    def describe(self, x: Tensor) -> Tensor:
        require_images(x)
        if x.ndim != 4 or x.shape[1] not in (1, 3) or min(x.shape[2:]) < SMALLEST:
            raise ValueError(
                f"LPIPS compares images (N, 3 or 1, H, W) of at least {SMALLEST}x{SMALLEST} "
                f"pixels, got {tuple(x.shape)}; enlarge them, for example with "
                "torch.nn.functional.interpolate"
            )
        return self.features.describe(x.expand(-1, 3, -1, -1))

    def from_length(self, length: Tensor) -> Tensor:
        return self.features.from_length(length)


def alexnet_features(state: Mapping[str, Tensor]) -> nn.Module:
    """AlexNet's convolutional part (Krizhevsky 2014, one tower) up to its last activation.

    state: weights and biases of the convolutions, `features.0.weight` etc.; others are ignored.
    Raises `ValueError` naming a tensor that is missing or of another shape.
    """
    features = nn.Sequential(
        nn.Conv2d(3, 64, 11, stride=4, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(),
    )
    network = nn.Sequential()
    network.add_module("features", features)
    for name, wanted in network.state_dict().items():
        _require(state, name, tuple(wanted.shape), "AlexNet's state")
    chosen = {name: state[name] for name in network.state_dict()}
    dtype, device = chosen["features.0.weight"].dtype, chosen["features.0.weight"].device
    network = network.to(dtype=dtype, device=device)
    network.load_state_dict(chosen)
    return network.eval()


def head_weights(state: Mapping[str, Tensor]) -> dict[str | int, Tensor]:
    """Weights per channel of each of `LAYERS`, from the heads `lin0.model.1.weight` etc.

    Raises `ValueError` naming a tensor that is missing or of another shape.
    """
    weights: dict[str | int, Tensor] = {}
    for number, (layer, channels) in enumerate(zip(LAYERS, (64, 192, 384, 256, 256), strict=True)):
        name = f"lin{number}.model.1.weight"
        _require(state, name, (1, channels, 1, 1), "the LPIPS heads' state")
        weights[layer] = torch.clone(state[name].detach()).flatten()
    return weights


def _require(state: Mapping[str, Tensor], name: str, shape: tuple[int, ...], what: str) -> None:
    found = state.get(name)
    if found is None or tuple(found.shape) != shape:
        got = "is missing" if found is None else f"has shape {tuple(found.shape)}"
        raise ValueError(f"{what}: {name} {got}, it should have {shape}")
