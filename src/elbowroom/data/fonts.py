"""FONTS: letters A to J of many faces, moved by known transformations (Manifold, suppl. B.1).

The data manifold is known exactly: an image is decoded from a face, a letter and the six
transformation parameters of `PARAMETERS`, and the decoder is differentiable in the latter.

Every glyph (face and letter) has 112 fixed transformations. Following the paper, the first 96
make the training images and the last 16 the test images ("train", "test"), so that a test image
shows a glyph that was trained on, moved differently. "train-by-face" and "test-by-face" hold out
whole faces instead, with all 112 transformations: about one face in seven, and never two faces
of the same group (related styles) on different sides.

Image i of a split belongs to (seed, i) alone, however many are generated.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from elbowroom.data.dataset import Dataset, unknown_split

ASSETS = Path(__file__).parent / "assets"
REMEDY = "it comes with the package: install elbowroom again"
SOURCE = (
    "letters of free fonts (OFL, Apache, GUST/LPPL, Aenigma; see assets/licences), transformed as "
    "in Stutz, Hein, Schiele, Disentangling Adversarial Robustness and Generalization, CVPR 2019"
)
LETTERS = tuple("ABCDEFGHIJ")

PARAMETERS = ("t1", "t2", "lambda1", "lambda2", "s", "r")
"""Translation (half widths and heights), two shears, scale, rotation (radians): see `transform`."""
LOWER = (-0.2, -0.2, -0.5, -0.5, 0.75, -math.pi / 2)
UPPER = (0.2, 0.2, 0.5, 0.5, 1.15, math.pi / 2)
IDENTITY = (0.0, 0.0, 0.0, 0.0, 1.0, 0.0)  # what leaves an image as it is

TRANSFORMATIONS = 112
TRAIN_TRANSFORMATIONS = 96
TEST_FACES = 1 / 7
DEFAULT_COUNT = {"train": 60_000, "test": 10_000, "train-by-face": 60_000, "test-by-face": 10_000}

# Rendered in chunks of one size (the last is padded): the bits of an image then do not depend on
# how many are rendered.
CHUNK = 500


# -- the decoder -----------------------------------------------------------------------------


def transformation_matrix(parameters: Tensor) -> Tensor:
    """The affine matrices `(N, 2, 3)` of `parameters` `(N, 6)`, ordered as `PARAMETERS`.

    Eq. 6 of the supplement as printed, which is also what the authors' code computes. (Shear
    times rotation would have a plus in the first entry.)
    """
    t1, t2, lambda1, lambda2, s, r = parameters.unbind(dim=1)
    cos, sin = r.cos() * s, r.sin() * s
    rows = [cos - sin * lambda1, -sin + cos * lambda1, t1]
    rows += [cos * lambda2 + sin, -sin * lambda2 + cos, t2]
    return torch.stack(rows, dim=1).reshape(-1, 2, 3)


def transform(images: Tensor, parameters: Tensor) -> Tensor:
    """`images` `(N, C, H, W)` moved by `parameters` `(N, 6)`; differentiable in both.

    As in a spatial transformer the matrix maps *output* coordinates to input coordinates, so a
    positive t1 moves the picture left and s < 1 enlarges it. Coordinates run from -1 to 1 between
    the centres of the border pixels (`align_corners=True`, what PyTorch did when the paper was
    written); a shift by one pixel is `2 / (W - 1)`. Bilinear, zero outside.
    """
    matrix = transformation_matrix(parameters).to(images.dtype)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=True)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=True)


@cache
def prototypes() -> Tensor:
    """The undistorted letters `(faces, 10, 28, 28)` uint8, white on black."""
    path = _asset("fonts.npz")
    try:
        with np.load(path, allow_pickle=False) as file:
            return torch.from_numpy(file["images"])
    except (ValueError, KeyError, OSError, BadZipFile) as error:
        raise ValueError(
            f"{path} does not hold the letters of FONTS ({error}); {REMEDY}"
        ) from error


def _asset(name: str) -> Path:
    path = ASSETS / name
    if not path.is_file():
        raise FileNotFoundError(f"{path}, a file of the letters of FONTS, is missing; {REMEDY}")
    return path


def decode(parameters: Tensor, face: Tensor, letter: Tensor) -> Tensor:
    """Images `(N, 1, 28, 28)` in [0, 1] of the glyphs `face`, `letter` `(N,)` int64.

    Has the dtype and device of `parameters` `(N, 6)` and is differentiable in them.
    """
    glyphs = prototypes()[face.cpu(), letter.cpu()].to(parameters) / 255
    # Interpolation weights may sum to a rounding error more than one.
    return transform(glyphs[:, None], parameters).clamp(0, 1)


# -- the splits ------------------------------------------------------------------------------


@cache
def groups() -> tuple[int, ...]:
    """The group of each face; faces of one group are related."""
    with _asset("fonts.tsv").open(encoding="utf-8", newline="") as file:
        return tuple(int(row["group"]) for row in csv.DictReader(file, delimiter="\t"))


@cache
def _test_faces() -> frozenset[int]:
    """Faces held out by the by-face splits; the same for every seed."""
    group = np.array(groups())
    held_out: list[int] = []
    for candidate in np.random.default_rng(0).permutation(group.max() + 1):
        faces = np.flatnonzero(group == candidate)
        if len(held_out) + len(faces) <= TEST_FACES * len(group):
            held_out.extend(faces.tolist())
    return frozenset(held_out)


def split_faces(split: str) -> tuple[list[int], range]:
    """The faces of a split and the numbers of their transformations."""
    if split not in DEFAULT_COUNT:
        raise unknown_split("fonts", split, list(DEFAULT_COUNT))
    if not split.endswith("-by-face"):
        train = split == "train"
        numbers = (0, TRAIN_TRANSFORMATIONS) if train else (TRAIN_TRANSFORMATIONS, TRANSFORMATIONS)
        return list(range(len(groups()))), range(*numbers)
    wanted = split == "test-by-face"
    faces = [face for face in range(len(groups())) if (face in _test_faces()) == wanted]
    return faces, range(TRANSFORMATIONS)


@dataclass(frozen=True, eq=False)
class Latents:
    """Where images lie on the manifold: `parameters` `(N, 6)` float32, `face`, `letter` `(N,)`."""

    parameters: Tensor
    face: Tensor
    letter: Tensor

    def after(self, count: int) -> Latents:
        """Without the first `count`."""
        return Latents(self.parameters[count:], self.face[count:], self.letter[count:])


def latents(split: str = "test", count: int | None = None, seed: int = 0) -> Latents:
    """The latents of the first `count` images of a split.

    Letters alternate A, B, ... J. Each letter goes through all faces, in an order of its own,
    before a face comes again with its next transformation. Raises `ValueError` for a split that
    does not exist or has fewer images.
    """
    faces, numbers = split_faces(split)
    count = DEFAULT_COUNT[split] if count is None else count
    if not 0 <= count <= available(split):
        raise ValueError(f"fonts ({split}) has {available(split)} images, {count} were asked for")
    orders = np.random.default_rng([seed, 0]).permuted(
        np.tile(np.array(faces), (len(LETTERS), 1)), axis=1
    )
    turn, letter = np.divmod(np.arange(count), len(LETTERS))
    number, place = np.divmod(turn, len(faces))
    face = orders[letter, place]
    uniform = np.empty((count, len(PARAMETERS)))
    for one in np.unique(face):
        here = face == one
        table = np.random.default_rng([seed, 1, int(one)]).random(
            (len(LETTERS), TRANSFORMATIONS, len(PARAMETERS))
        )
        uniform[here] = table[letter[here], numbers.start + number[here]]
    lower, upper = np.array(LOWER), np.array(UPPER)
    parameters = torch.from_numpy(lower + (upper - lower) * uniform).float()
    return Latents(parameters, torch.from_numpy(face), torch.from_numpy(letter))


def available(split: str) -> int:
    """How many images a split can have."""
    faces, numbers = split_faces(split)
    return len(faces) * len(numbers) * len(LETTERS)


def render(where: Latents) -> Tensor:
    """The images `(N, 1, 28, 28)` of latents."""
    images = torch.empty(len(where.letter), 1, 28, 28)
    for start in range(0, len(images), CHUNK):
        wanted = torch.arange(start, start + CHUNK).clamp(max=len(images) - 1)
        chunk = decode(where.parameters[wanted], where.face[wanted], where.letter[wanted])
        images[start : start + CHUNK] = chunk[: len(images) - start]
    return images


def generate(split: str = "test", count: int | None = None, seed: int = 0) -> Dataset:
    """The first `count` images of a split (`DEFAULT_COUNT` of them by default), `(N, 1, 28, 28)`.

    Every multiple of ten is balanced over the letters. Raises `ValueError` as `latents` does.
    """
    where = latents(split, count, seed)
    return Dataset("fonts", split, render(where), where.letter, LETTERS, (0.0, 1.0), SOURCE)
