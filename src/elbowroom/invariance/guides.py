"""Images to come close to that show nothing: means of data sets, constant colours, noise.

What an inversion draws on them is all its own (Invariance thesis, 4.3.3 "Mean image as prior" and
section 4.4). Other data sets, the other out-distributions of section 4.4, are loaded like any.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from elbowroom.classifier import Classifier
from elbowroom.norms import per_sample
from elbowroom.sampling import SampleRng


def mean_image(x: Tensor, y: Tensor | None = None, label: int | None = None) -> Tensor:
    """The mean `(*shape)` of images `(N, *shape)`: all of them (the thesis), or those of a class.

    y: labels `(N,)`. label: the class. Give both or neither. The mean is taken in float64.
    Raises `ValueError` where there are no such images.
    """
    if (y is None) != (label is None):
        raise ValueError("give y and label for the mean of a class, or neither for all images")
    if y is not None:
        if y.shape != x.shape[:1]:
            raise ValueError(f"{tuple(y.shape)} labels for {len(x)} images")
        x = x[y == label]
    if len(x) == 0:
        raise ValueError("no images" if label is None else f"no images have the label {label}")
    return x.double().mean(dim=0).to(x.dtype)


def uniform_noise(
    clf: Classifier, shape: Sequence[int], indices: Sequence[int], *, seed: int = 0
) -> Tensor:
    """`(N, *shape)`: every feature uniform between its input bounds.

    indices: N numbers; noise depends on its number and `seed` alone.
    Raises `ValueError` for infinite bounds.
    """
    like, lower, upper = _room(clf, shape, indices)
    return clf.clamp(lower + (upper - lower) * SampleRng(seed, indices).uniform(like))


def constant_images(
    clf: Classifier, shape: Sequence[int], indices: Sequence[int], *, seed: int = 0
) -> Tensor:
    """`(N, *shape)`: each of one colour, uniform between the input bounds of each channel.

    shape: `(C, ...)`, channels first; something with one dimension has a single value.
    indices: N numbers; a colour depends on its number and `seed` alone.
    Raises `ValueError` for infinite bounds, and where the bounds leave no constant.
    """
    like, lower, upper = _room(clf, shape, indices)
    channels = shape[0] if len(shape) > 1 else 1
    low = lower.reshape(channels, -1).amax(dim=1)
    high = upper.reshape(channels, -1).amin(dim=1)
    if bool((low > high).any()):
        raise ValueError("the input bounds of a channel's features have no value in common")
    share = SampleRng(seed, indices).uniform(like.new_zeros(len(like), channels))
    colour = low + (high - low) * share
    pixels = per_sample(colour.flatten(), like.reshape(len(like) * channels, -1))
    return clf.clamp(pixels.expand(-1, like[0].numel() // channels).reshape(like.shape))


def _room(
    clf: Classifier, shape: Sequence[int], indices: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """A batch of the wanted shape, and the bounds of a sample."""
    if not clf.bounded:
        raise ValueError("the input bounds are infinite: nothing is uniform between them")
    like = clf.lower.new_zeros(len(indices), *shape)
    return like, clf.lower.expand(tuple(shape)), clf.upper.expand(tuple(shape))
