"""What a learned manifold takes for real: random samples and reconstructions (Manifold, Fig. 9)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from elbowroom.classifier import Classifier
from elbowroom.data import Dataset
from elbowroom.manifold import ByClass, Decoder, Generator
from elbowroom.manifold.rates import Rate, rate
from elbowroom.papers.manifold_attacks import decisions
from elbowroom.perception import SSIM


def random_samples(decoder: Decoder, count: int, seed: int) -> list[tuple[int | None, Tensor]]:
    """`count` samples `(count, *shape)` of each class, or of all (None).

    Raises `ValueError` for a decoder that codes cannot be drawn for.
    """
    each: dict[int | None, Decoder] = {None: decoder}
    if isinstance(decoder, ByClass):
        each = {label: decoder.decoders[label] for label in sorted(decoder.decoders)}
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for label, one in each.items():
        if not isinstance(one, Generator):
            raise ValueError(
                f"random codes cannot be drawn for a {type(one).__name__} decoder, but for a "
                "manifold.Generator, as VAE-GANs are"
            )
        drawn.append((label, one.samples(one.draw(count, generator))))
    return drawn


@dataclass(frozen=True, eq=False)
class Quality:
    """How good a learned manifold is, by images that it has not seen and by a held-out network.

    accuracy:       of the network, on test images. recognised: class -> how many of its random
                    samples the network gives this class; empty for a manifold of all classes.
    reconstructed:  test images of which the reconstruction is given their class.
    similarity:     `(N,)`, SSIM of the reconstructions.
    samples:        some random samples of each class. images: test images and reconstructions.
    """

    accuracy: Rate
    recognised: dict[int, Rate]
    reconstructed: Rate
    similarity: Tensor
    samples: list[tuple[int | None, Tensor]]
    images: tuple[Tensor, Tensor]


def quality(
    decoder: Decoder, judge: Classifier, test: Dataset, *, samples: int, shown: int, seed: int
) -> Quality:
    """samples: random ones of each class. shown: how many of these are kept, and of the images."""
    drawn = random_samples(decoder, samples, seed)
    recognised = {
        label: rate(decisions(judge, images) == label)
        for label, images in drawn
        if label is not None
    }
    with torch.no_grad():
        parts = [
            decoder.samples(decoder.encode(x, y))
            for x, y in zip(torch.split(test.x, 500), torch.split(test.y, 500), strict=True)
        ]
    made = torch.cat(parts)
    ssim = SSIM()
    similarity = torch.cat(
        [
            1 - ssim.between(ssim.describe(a), ssim.describe(b))
            for a, b in zip(torch.split(test.x, 500), parts, strict=True)
        ]
    )
    return Quality(
        accuracy=rate(decisions(judge, test.x) == test.y),
        recognised=recognised,
        reconstructed=rate(decisions(judge, made) == test.y),
        similarity=similarity,
        samples=[(label, images[:shown]) for label, images in drawn],
        images=(test.x[:shown], made[:shown]),
    )
