"""FONTS: the transformation against closed forms, and images that depend on (seed, index)."""

import math

import pytest
import torch

from elbowroom.data import fonts, load

IDENTITY = [0.0, 0.0, 0.0, 0.0, 1.0, 0.0]


def parameters(dtype=torch.float32, **values):
    row = [values.get(name, IDENTITY[i]) for i, name in enumerate(fonts.PARAMETERS)]
    return torch.tensor([row], dtype=dtype)


def glyphs(count=20):
    """The first prototypes, `(count, 1, 28, 28)` in [0, 1]."""
    return fonts.prototypes()[:count, 0, None].float() / 255


def test_matrix_against_hand_computation():
    # r = pi/6: cos 0.8660254, sin 0.5; s = 0.8, lambda1 = 0.3, lambda2 = -0.4.
    # 0.6928203 - 0.4 * 0.3, -0.4 + 0.6928203 * 0.3, 0.6928203 * -0.4 + 0.4, 0.4 * 0.4 + 0.6928203
    row = parameters(
        torch.float64, t1=0.1, t2=-0.15, lambda1=0.3, lambda2=-0.4, s=0.8, r=math.pi / 6
    )
    expected = torch.tensor(
        [[0.57282032, -0.19215390, 0.1], [0.12287187, 0.85282032, -0.15]], dtype=torch.float64
    )
    assert torch.allclose(fonts.transformation_matrix(row)[0], expected, atol=1e-7, rtol=0)


@pytest.mark.parametrize(
    # In float32 a coordinate near 27 pixels is off by up to 2e-6 already.
    ("dtype", "tolerance"),
    [(torch.float64, 1e-12), (torch.float32, 5e-6)],
)
def test_identity_reproduces_the_prototype(dtype, tolerance):
    images = glyphs().to(dtype)
    moved = fonts.transform(images, parameters(dtype).expand(len(images), 6))
    assert (moved - images).abs().max() < tolerance
    decoded = fonts.decode(parameters(dtype), torch.tensor([7]), torch.tensor([3]))
    assert decoded.dtype == dtype
    assert (decoded[0, 0] - fonts.prototypes()[7, 3].to(dtype) / 255).abs().max() < tolerance


@pytest.mark.parametrize(("right", "down"), [(1, 0), (0, 2), (-3, 0), (2, -1)])
def test_shift_by_whole_pixels_is_a_roll(right, down):
    # Prototypes keep 4 pixels of black on every side, so nothing is lost in rolling.
    images = glyphs()
    row = parameters(t1=-2 * right / 27, t2=-2 * down / 27).expand(len(images), 6)
    rolled = images.roll((down, right), dims=(2, 3))
    assert (fonts.transform(images, row) - rolled).abs().max() < 1e-5


@pytest.mark.parametrize("turns", [1, -1])
def test_rotation_by_a_right_angle(turns):
    images = glyphs()
    row = parameters(r=turns * math.pi / 2).expand(len(images), 6)
    turned = torch.rot90(images, turns, dims=(2, 3))
    moved = fonts.transform(images, row)
    # On the border the grid leaves the picture by a rounding error.
    assert (moved - turned)[:, :, 1:-1, 1:-1].abs().max() < 1e-5


def test_gradient_in_the_parameters():
    images = torch.rand(2, 1, 6, 6, dtype=torch.float64, generator=torch.manual_seed(0))
    rows = torch.tensor(
        [[0.03, -0.07, 0.21, -0.13, 0.9, 0.4], [-0.11, 0.05, -0.3, 0.17, 1.1, -0.8]],
        dtype=torch.float64,
        requires_grad=True,
    )
    assert torch.autograd.gradcheck(lambda t: fonts.transform(images, t), rows, eps=1e-7)
    face, letter = torch.tensor([0, 40]), torch.tensor([1, 6])
    (slope,) = torch.autograd.grad(fonts.decode(rows, face, letter).sum(), rows)
    assert (slope.abs() > 0).all()


def test_same_seed_same_images_and_another_seed_others():
    one, same, other = (fonts.generate("test", 50, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(one.x, same.x)
    assert not torch.equal(one.x, other.x)


@pytest.mark.parametrize("split", fonts.DEFAULT_COUNT)
def test_image_does_not_depend_on_the_count(split):
    few, many = fonts.generate(split, 37), fonts.generate(split, 1203)
    assert torch.equal(few.x, many.x[:37])
    assert torch.equal(few.y, many.y[:37])


def test_generated_images_are_decoded_latents():
    where = fonts.latents("test", 20, seed=5)
    images = fonts.decode(where.parameters, where.face, where.letter)
    assert torch.allclose(images, fonts.generate("test", 20, seed=5).x, atol=1e-6)


def test_parameters_fill_their_ranges():
    rows = fonts.latents("train", 20_000).parameters.double()
    lower, upper = (
        torch.tensor(bound, dtype=torch.float64) for bound in (fonts.LOWER, fonts.UPPER)
    )
    position = (rows - lower) / (upper - lower)
    assert position.min() > -1e-6
    assert position.max() < 1 + 1e-6
    # Mean and variance of uniform numbers are 1/2 and 1/12; standard errors 0.002 and 0.0006.
    assert (position.mean(dim=0) - 1 / 2).abs().max() < 0.01
    assert (position.var(dim=0) - 1 / 12).abs().max() < 0.003
    assert (torch.corrcoef(position.T) - torch.eye(6)).abs().max() < 0.05


def identities(split):
    """Every image of a split as the tuple (face, letter, parameters)."""
    faces, numbers = fonts.split_faces(split)
    where = fonts.latents(split, len(faces) * len(numbers) * 10)
    rows = zip(where.face.tolist(), where.letter.tolist(), where.parameters.tolist(), strict=True)
    return {(face, letter, *row) for face, letter, row in rows}


def test_paper_splits_share_glyphs_but_no_image(monkeypatch):
    monkeypatch.setattr(fonts, "groups", lambda: tuple(range(30)))
    train, test = identities("train"), identities("test")
    assert len(train) == 30 * 10 * 96
    assert len(test) == 30 * 10 * 16
    assert not train & test
    assert {image[:2] for image in train} == {image[:2] for image in test}


def test_split_by_face_shares_no_group():
    group = fonts.groups()
    train, test = (fonts.split_faces(f"{split}-by-face")[0] for split in ("train", "test"))
    assert sorted(train + test) == list(range(len(group)))
    assert not {group[face] for face in train} & {group[face] for face in test}
    assert len(test) / len(group) == pytest.approx(1 / 7, abs=0.005)


@pytest.mark.parametrize("split", fonts.DEFAULT_COUNT)
def test_balanced_and_spread_over_faces(split):
    where = fonts.latents(split, 1000)
    assert where.letter.bincount().tolist() == [100] * 10
    faces = set(fonts.split_faces(split)[0])
    assert set(where.face.tolist()) <= faces
    assert len(where.face.unique()) > 0.5 * len(faces)
    pairs = set(zip(where.face.tolist(), where.letter.tolist(), strict=True))
    assert len(pairs) == 1000  # no glyph twice before all have come


def test_dataset_fields():
    data = load("fonts", count=25)
    assert data.x.shape == (25, 1, 28, 28)
    assert data.x.dtype == torch.float32
    assert data.bounds == (0.0, 1.0)
    assert data.classes == tuple("ABCDEFGHIJ")
    assert data.y[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]


def test_more_images_than_there_are():
    available = len(fonts.groups()) * 10 * 16
    with pytest.raises(ValueError, match=f"has {available} images, {available + 1} were asked"):
        fonts.latents("test", available + 1)
    with pytest.raises(ValueError, match="-1 were asked"):
        fonts.latents("test", -1)


def test_unknown_split_names_those_that_exist():
    with pytest.raises(ValueError, match="train, test, train-by-face, test-by-face"):
        load("fonts", "val")


def test_letters_that_are_missing_or_damaged(tmp_path, monkeypatch):
    monkeypatch.setattr(fonts, "ASSETS", tmp_path)
    for cached in (fonts.prototypes, fonts.groups):
        cached.cache_clear()
    try:
        with pytest.raises(FileNotFoundError, match="install elbowroom again"):
            fonts.prototypes()
        with pytest.raises(FileNotFoundError, match=r"fonts\.tsv"):
            fonts.groups()
        (tmp_path / "fonts.npz").write_bytes(b"not letters")
        with pytest.raises(ValueError, match="does not hold the letters of FONTS"):
            fonts.prototypes()
    finally:
        for cached in (fonts.prototypes, fonts.groups):
            cached.cache_clear()
