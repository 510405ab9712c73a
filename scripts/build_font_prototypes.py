"""Build the letter prototypes of the FONTS data set.

    build_font_prototypes.py render FOLDER --licence OFL --out prototypes.npz
    build_font_prototypes.py select prototypes.npz index.tsv --out src/elbowroom/data/assets

`render` draws the letters A to J of every font file in a folder and keeps the readable faces.
`select` picks the faces that the package ships, by this rule:

1. readable: at least 9 of the 10 letters have the same letter of another family as nearest
   neighbour;
2. redistributable: an OFL, Apache or GUST/LPPL tag in the font itself, or a package whose
   copyright file lets everyone pass the fonts on and change them (`PERMISSIVE_PACKAGES`);
   GPL and AGPL fonts are left out, the library being MIT;
3. not a copy: faces closer than `COPY` to one already chosen are dropped;
4. diverse: at most `FACES_PER_GROUP` of one group, one face of every family first. A group is a
   group of the index, joined with every other that shares a family name or has a face closer
   than `RELATED`; the splits by face keep a group on one side.

Distances are L2 between two letters with pixels in [0, 1], the root mean square over A to J.
"""

from __future__ import annotations

import argparse
import csv
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

LETTERS = "ABCDEFGHIJ"
SIZE = 28
LONGEST_SIDE = 20
DRAWN_SIZE = 64
MARGIN = 8
FONT_SUFFIXES = {".ttf", ".otf"}
SOURCE_FIELDS = ["row", "family", "style", "licence_tag", "one_per_family", "path_in_package"]
SOURCE_FIELDS += ["nn_correct_of_10", "group"]
SHIPPED_FIELDS = ["face", "family", "style", "licence", "package", "group"]

READABLE = 9
LICENCES = {"OFL", "Apache", "GUST/LPPL"}
PERMISSIVE_PACKAGES = {"fonts-aenigma": "permission of the author"}
COPY = 0.5
RELATED = 1.5
FACES_PER_GROUP = 36

Row = dict[str, str]


# -- drawing ---------------------------------------------------------------------------------


def draw_letter(font: ImageFont.FreeTypeFont, letter: str) -> np.ndarray:
    """One letter, white on black, `(28, 28)` uint8: longest side 20 pixels, box centred."""
    left, top, right, bottom = font.getbbox(letter)
    # A margin, since some fonts draw beyond the box they state.
    width, height = (int(side) + 2 * MARGIN for side in (right - left, bottom - top))
    glyph = Image.new("L", (width, height))
    ImageDraw.Draw(glyph).text((MARGIN - left, MARGIN - top), letter, fill=255, font=font)
    ink = glyph.getbbox()
    if ink is None:
        raise ValueError(f"the letter {letter} is empty")
    glyph = glyph.crop(ink)
    width, height = glyph.size
    scale = LONGEST_SIDE / max(width, height)
    width, height = (max(1, round(side * scale)) for side in (width, height))
    glyph = glyph.resize((width, height), Image.Resampling.LANCZOS)
    canvas = Image.new("L", (SIZE, SIZE))
    canvas.paste(glyph, ((SIZE - width) // 2, (SIZE - height) // 2))
    return np.asarray(canvas)


def draw_face(path: Path) -> tuple[np.ndarray, str, str]:
    """Letters `(10, 28, 28)`, family and style of a font file."""
    font = ImageFont.truetype(str(path), size=DRAWN_SIZE)
    family, style = font.getname()
    return np.stack([draw_letter(font, c) for c in LETTERS]), family or path.stem, style or ""


def read_correctly(
    images: np.ndarray, families: list[str], reference: np.ndarray, reference_families: list[str]
) -> np.ndarray:
    """How many letters `(F,)` of each face `(F, 10, 28, 28)` a nearest neighbour names right.

    Neighbours are the letters of all other families, in `images` and in `reference`.
    """
    known = np.concatenate([images, reference]).reshape(-1, SIZE * SIZE).astype(np.float32)
    known_families = np.repeat(np.array(families + reference_families, dtype=object), len(LETTERS))
    squares = (known**2).sum(axis=1)
    correct = np.zeros(len(images), dtype=int)
    for f, family in enumerate(families):
        others = known_families != family
        if not others.any():
            raise ValueError(f"no other family to compare {family!r} with: give --reference")
        query = images[f].reshape(len(LETTERS), -1).astype(np.float32)
        distance = squares[others] - 2 * query @ known[others].T
        named = np.flatnonzero(others)[distance.argmin(axis=1)] % len(LETTERS)
        correct[f] = (named == np.arange(len(LETTERS))).sum()
    return correct


def render(
    folder: Path, licence: str, reference: np.ndarray, reference_families: list[str]
) -> tuple[np.ndarray, list[Row]]:
    """Letters and index rows of the readable fonts below `folder`."""
    faces, rows = [], []
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in FONT_SUFFIXES):
        try:
            letters, family, style = draw_face(path)
        except (OSError, ValueError) as error:
            print(f"left out {path}: {error}")
            continue
        faces.append(letters)
        where = path.relative_to(folder).as_posix()
        rows.append(
            dict(zip(SOURCE_FIELDS[1:6], [family, style, licence, "0", where], strict=True))
        )
    if not faces:
        raise ValueError(f"no font could be drawn in {folder}")
    families = [row["family"] for row in rows]
    correct = read_correctly(np.stack(faces), families, reference, reference_families)
    kept = [i for i in range(len(rows)) if correct[i] >= READABLE]
    numbers = {family: str(n) for n, family in enumerate(dict.fromkeys(families))}
    seen: set[str] = set()
    for new, i in enumerate(kept):
        family = families[i]
        rows[i] |= {"row": str(new), "nn_correct_of_10": str(correct[i]), "group": numbers[family]}
        rows[i]["one_per_family"] = str(int(family not in seen))
        seen.add(family)
    images = np.stack(faces)[kept] if kept else np.empty((0, 10, SIZE, SIZE), np.uint8)
    return images, [rows[i] for i in kept]


# -- choosing --------------------------------------------------------------------------------


def package_of(path: str) -> str:
    """The package a font path of the index belongs to."""
    parts = Path(path).parts
    if "texlive" in parts:
        return "texlive-fonts-extra/" + parts[parts.index("texmf-dist") + 4]
    if "tex-gyre" in parts:
        return "fonts-texgyre"
    if parts[:3] == ("usr", "share", "fonts"):
        folder = "-".join(parts[4:6]) if parts[4] == "roboto" else parts[4]
        return f"fonts-{folder}"
    return parts[0]


def licence_of(row: Row) -> str | None:
    """The licence under which a face may be shipped, None if it may not."""
    if row["licence_tag"] in LICENCES:
        return row["licence_tag"]
    return PERMISSIVE_PACKAGES.get(package_of(row["path_in_package"]))


def distances(images: np.ndarray) -> np.ndarray:
    """Root mean square letter distance `(F, F)` between faces `(F, 10, 28, 28)` uint8."""
    flat = images.reshape(len(images), -1).astype(np.float64) / 255
    squares = (flat**2).sum(axis=1)
    square = squares[:, None] + squares[None] - 2 * flat @ flat.T
    return np.sqrt(np.maximum(square, 0) / len(LETTERS))


def joined_groups(rows: list[Row], near: np.ndarray) -> list[int]:
    """A group number per face: faces of one index group, of one family, or near each other."""
    parent = list(range(len(rows)))

    def root(a: int) -> int:
        while parent[a] != a:
            a = parent[a]
        return a

    first: dict[tuple[str, str], int] = {}
    for a, row in enumerate(rows):
        for key in (("group", row["group"]), ("family", row["family"])):
            parent[root(a)] = root(first.setdefault(key, a))
    for a, b in np.argwhere(np.triu(near, 1)):
        parent[root(int(a))] = root(int(b))
    numbers: dict[int, int] = {}
    return [numbers.setdefault(root(a), len(numbers)) for a in range(len(rows))]


def select(images: np.ndarray, index: list[Row]) -> tuple[np.ndarray, list[Row]]:
    """The faces to ship, with their rows, by the rule at the top of this file."""
    rows = [r for r in index if int(r["nn_correct_of_10"]) >= READABLE and licence_of(r)]
    images = images[[int(r["row"]) for r in rows]]
    between = distances(images)
    groups = joined_groups(rows, between <= RELATED)
    order = sorted(
        range(len(rows)),
        key=lambda a: (-int(rows[a]["one_per_family"]), -int(rows[a]["nn_correct_of_10"]), a),
    )
    chosen: list[int] = []
    taken: Counter[int] = Counter()
    for a in order:
        if taken[groups[a]] < FACES_PER_GROUP and not (between[a, chosen] <= COPY).any():
            chosen.append(a)
            taken[groups[a]] += 1
    chosen.sort()
    shipped = []
    for face, a in enumerate(chosen):
        row = rows[a]
        values = [str(face), row["family"], row["style"], licence_of(row) or ""]
        values += [package_of(row["path_in_package"]), str(groups[a])]
        shipped.append(dict(zip(SHIPPED_FIELDS, values, strict=True)))
    return images[chosen], shipped


# -- files -----------------------------------------------------------------------------------


def read_index(path: Path) -> list[Row]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def write_index(path: Path, rows: list[Row], fields: list[str]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fields, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    drawing = commands.add_parser("render", help="draw the letters of the fonts in a folder")
    drawing.add_argument("folder", type=Path)
    drawing.add_argument("--licence", required=True, help="licence tag of the fonts")
    drawing.add_argument("--out", type=Path, required=True, help="the .npz; .tsv is written beside")
    drawing.add_argument(
        "--reference", type=Path, help="folder of shipped prototypes to judge readability by"
    )
    choosing = commands.add_parser("select", help="choose the faces to ship")
    choosing.add_argument("prototypes", type=Path)
    choosing.add_argument("index", type=Path)
    choosing.add_argument("--out", type=Path, required=True, help="folder to write to")
    arguments = parser.parse_args()
    if arguments.command == "render":
        reference, families = np.empty((0, 10, SIZE, SIZE), np.uint8), []
        if arguments.reference:
            with np.load(arguments.reference / "fonts.npz", allow_pickle=False) as file:
                reference = file["images"]
            families = [row["family"] for row in read_index(arguments.reference / "fonts.tsv")]
        images, rows = render(arguments.folder, arguments.licence, reference, families)
        np.savez_compressed(arguments.out, images=images)
        write_index(arguments.out.with_suffix(".tsv"), rows, SOURCE_FIELDS)
    else:
        with np.load(arguments.prototypes, allow_pickle=False) as file:
            images, rows = select(file["images"], read_index(arguments.index))
        np.savez_compressed(arguments.out / "fonts.npz", images=images)
        write_index(arguments.out / "fonts.tsv", rows, SHIPPED_FIELDS)
    print(f"{len(rows)} faces of {len({row['family'] for row in rows})} families")


if __name__ == "__main__":
    main()
