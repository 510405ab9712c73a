"""Thresholds for perceptual distances, from a change that is just noticeable.

NSPGD (sections 3 and 6) calls two images indistinguishable below an LPIPS distance of 0.03. Another
distance has another scale. What a distance makes of a stated small change gives it a threshold of
its own, and makes thresholds of several distances mean the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from elbowroom.norms import L2, Norm
from elbowroom.perception.alignment import CHUNK
from elbowroom.perception.distance import PerceptualDistance, require_images
from elbowroom.perception.noise import Bound, matched_noise
from elbowroom.sampling import SampleRng


@dataclass(frozen=True)
class Threshold:
    """A value of a perceptual distance below which images count as looking alike.

    value:     the threshold.
    meaning:   what it was matched to, in words.
    distances: `(N, copies)`, float64: what the distance makes of the reference changes; `value`
               is a quantile of them.
    """

    value: float
    meaning: str
    distances: Tensor


@dataclass(frozen=True, kw_only=True)
class NoticeableNoise:
    """The threshold at which a distance puts noise of a given size (`matched_noise`).

    size:     of the noise in `norm`, in the input's own units: the largest that goes unnoticed.
              The radii attacks are judged by are a choice that others made: Table 2.1 of the
              Invariance thesis, `elbowroom.papers.invariance_metrics.TABLE_2_1`.
    norm:     of the noise.
    quantile: of the distances between images and noisy copies, in [0, 1]; linear between values.
    copies:   noisy copies of each image.
    seed:     with an image's index it fixes its noise, whatever the batch.
    """

    size: float
    norm: Norm = L2
    quantile: float = 0.5
    copies: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.size < float("inf"):
            raise ValueError(f"size must be positive and finite, not {self.size}")
        if self.copies < 1:
            raise ValueError(f"copies must be at least 1, not {self.copies}")
        _require_quantile(self.quantile)

    def __call__(
        self,
        distance: PerceptualDistance,
        x: Tensor,
        *,
        bounds: tuple[Bound, Bound] = (0.0, 1.0),
        indices: Sequence[int] | None = None,
        chunk: int = CHUNK,
    ) -> Threshold:
        """Measure the noise on images `x` `(N, *shape)` inside `bounds`.

        indices: the images' numbers in their data set, which seed their noise; 0..N-1 by default.
        Raises `ValueError` where the bounds leave no room for noise of this size.
        """
        require_images(x)
        numbers = list(indices) if indices is not None else list(range(len(x)))
        if len(numbers) != len(x):
            raise ValueError(f"{len(numbers)} indices for {len(x)} images")
        found = []
        for start in range(0, len(x), chunk):
            part = x[start : start + chunk]
            rng = SampleRng(self.seed, numbers[start : start + chunk])
            columns = []
            for _ in range(self.copies):
                noise = matched_noise(part, self.size, norm=self.norm, bounds=bounds, rng=rng)
                if not bool(noise.exact.all()):
                    raise ValueError(
                        f"noise of {self.norm} size {self.size:g} does not fit into the bounds "
                        f"around image {start + int((~noise.exact).nonzero()[0])}; take a smaller "
                        "size"
                    )
                with torch.no_grad():
                    columns.append(distance(part, noise.noisy))
            found.append(torch.stack(columns, dim=1))
        what = f"noise of {self.norm} size {self.size:g}"
        return _threshold(distance, torch.cat(found), self.quantile, what)


def threshold_from_changes(
    distance: PerceptualDistance,
    x: Tensor,
    changed: Tensor,
    *,
    quantile: float = 0.5,
    what: str = "the reference changes",
    chunk: int = CHUNK,
) -> Threshold:
    """The threshold at which a distance puts given changes `x[i]` to `changed[i]`.

    x, changed: `(N, *shape)`, for example images and copies that people cannot tell apart, or
                adversarial examples of a size that is held to be imperceptible.
    quantile:   of their distances, in [0, 1]: 0.5 puts half of the changes below the threshold.
    what:       the changes in words, for `Threshold.meaning`.
    """
    _require_quantile(quantile)
    if x.shape != changed.shape:
        raise ValueError(f"one changed image for each: {tuple(x.shape)}, {tuple(changed.shape)}")
    with torch.no_grad():
        pairs = zip(torch.split(x, chunk), torch.split(changed, chunk), strict=True)
        found = torch.cat([distance(before, after) for before, after in pairs])
    return _threshold(distance, found[:, None], quantile, what)


def _threshold(
    distance: PerceptualDistance, distances: Tensor, quantile: float, what: str
) -> Threshold:
    ordered = distances.flatten().sort().values
    place = quantile * (len(ordered) - 1)
    below = min(int(place), len(ordered) - 1)
    above = min(below + 1, len(ordered) - 1)
    value = float(torch.lerp(ordered[below], ordered[above], place - below))
    part = "median" if quantile == 0.5 else f"{quantile:g}-quantile"
    meaning = f"{part} of {distance.name} over {what}, {len(distances)} images"
    return Threshold(value, meaning, distances)


def _require_quantile(quantile: float) -> None:
    if not 0 <= quantile <= 1:
        raise ValueError(f"quantile must lie in [0, 1], not {quantile}")
