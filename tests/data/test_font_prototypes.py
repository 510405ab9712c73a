"""The shipped letters, and the script that draws and chooses them."""

import importlib.util
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import ImageFont

from elbowroom.data import fonts

SCRIPT = Path(__file__).parents[2] / "scripts" / "build_font_prototypes.py"
if not SCRIPT.is_file():
    pytest.skip("the scripts folder is not part of this distribution", allow_module_level=True)
_spec = importlib.util.spec_from_file_location("build_font_prototypes", SCRIPT)
script = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(script)


@pytest.fixture(scope="module")
def shipped():
    return script.read_index(fonts.ASSETS / "fonts.tsv")


def test_shipped_faces(shipped):
    images = fonts.prototypes()
    assert images.shape == (len(shipped), 10, 28, 28)
    assert len(shipped) >= 1000
    assert [int(row["face"]) for row in shipped] == list(range(len(shipped)))
    assert images.flatten(2).amax(dim=2).min() > 50  # no letter is empty
    assert max(Counter(row["group"] for row in shipped).values()) <= script.FACES_PER_GROUP
    assert (fonts.ASSETS / "fonts.npz").stat().st_size < 2.5e6


def test_every_licence_is_shipped(shipped):
    folder = fonts.ASSETS / "licences"
    for package in {row["package"].split("/")[0] for row in shipped}:
        assert (folder / f"copyright.{package}").stat().st_size > 400
    table = (folder / "README.md").read_text()
    for licence in {row["licence"] for row in shipped}:
        assert f"| {licence} |" in table


def test_shipped_copyright_files_are_unchanged(real_data):
    for copy in (fonts.ASSETS / "licences").glob("copyright.*"):
        assert copy.read_bytes() == (real_data / "fonts" / copy.name).read_bytes()


def test_shipped_faces_follow_the_rule(real_data, shipped):
    source = real_data / "fonts" / "debian12_AJ_prototypes_28x28.npz"
    with np.load(source, allow_pickle=False) as file:
        index = script.read_index(source.with_name("debian12_AJ_prototypes_index.tsv"))
        images, rows = script.select(file["images"], index)
    assert rows == shipped
    assert np.array_equal(images, fonts.prototypes().numpy())


def index_row(row, family, licence="OFL", path="mine/a.otf", group=None, correct=10):
    values = [row, family, "Regular", licence, 1, path, correct, row if group is None else group]
    return dict(zip(script.SOURCE_FIELDS, map(str, values), strict=True))


def test_rule_on_a_few_faces():
    images = np.random.default_rng(0).integers(0, 256, (7, 10, 28, 28), dtype=np.uint8)
    images[4] = images[0]  # a copy
    images[5] = images[1]
    images[5, 0, :2] = 255 - images[5, 0, :2]  # close to 1, but not a copy
    index = [
        index_row(0, "A"),
        index_row(1, "B"),
        index_row(2, "C", licence="GPL"),
        index_row(3, "D", correct=8),
        index_row(4, "E"),
        index_row(5, "F"),
        index_row(6, "G", licence="?", path="usr/share/fonts/truetype/aenigma/g.ttf"),
    ]
    chosen, rows = script.select(images, index)
    assert [row["family"] for row in rows] == ["A", "B", "F", "G"]
    assert np.array_equal(chosen, images[[0, 1, 5, 6]])
    assert rows[1]["group"] == rows[2]["group"]
    assert len({row["group"] for row in rows}) == 3
    assert rows[3]["package"] == "fonts-aenigma"


@pytest.mark.parametrize(
    ("path", "package"),
    [
        ("usr/share/fonts/truetype/lato/Lato-Thin.ttf", "fonts-lato"),
        ("usr/share/fonts/truetype/roboto/unhinted/Roboto.ttf", "fonts-roboto-unhinted"),
        ("usr/share/texmf/fonts/opentype/public/tex-gyre/x.otf", "fonts-texgyre"),
        (
            "usr/share/texlive/texmf-dist/fonts/opentype/ibm/plex/x.otf",
            "texlive-fonts-extra/plex",
        ),
        ("mine/a.otf", "mine"),
    ],
)
def test_package_of_origin(path, package):
    assert script.package_of(path) == package


@pytest.fixture
def font_folder(tmp_path):
    """A folder with one real font and one broken file."""
    font = ImageFont.load_default(20)
    if not isinstance(font, ImageFont.FreeTypeFont):
        pytest.skip("Pillow was built without FreeType")
    (tmp_path / "default.ttf").write_bytes(font.font_bytes)
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    return tmp_path


def test_drawing(font_folder):
    letters, family, _ = script.draw_face(font_folder / "default.ttf")
    assert letters.shape == (10, 28, 28)
    assert family == "Aileron"
    for letter in letters:
        rows, columns = (np.flatnonzero(letter.max(axis=axis)) for axis in (1, 0))
        sides = [inked[-1] - inked[0] + 1 for inked in (rows, columns)]
        assert max(sides) in (19, 20)  # the outermost pixel may round to black
        for inked in (rows, columns):
            assert abs((inked[0] + inked[-1]) / 2 - 13.5) <= 1


def test_rendering_a_folder(font_folder, shipped, capsys):
    families = [row["family"] for row in shipped]
    images, rows = script.render(font_folder, "OFL", fonts.prototypes().numpy(), families)
    assert images.shape == (1, 10, 28, 28)
    assert rows[0]["family"] == "Aileron"
    assert int(rows[0]["nn_correct_of_10"]) == 10
    assert rows[0]["path_in_package"] == "default.ttf"
    assert "left out" in capsys.readouterr().out


def test_unreadable_faces_are_dropped(font_folder, shipped):
    # Against mirrored letters most are misread.
    mirrored = fonts.prototypes().flip(1).numpy()
    families = [row["family"] for row in shipped]
    images, rows = script.render(font_folder, "OFL", mirrored, families)
    assert len(images) == len(rows) == 0


def test_readability_needs_another_family(font_folder):
    with pytest.raises(ValueError, match="no other family"):
        script.render(font_folder, "OFL", np.empty((0, 10, 28, 28), np.uint8), [])
