"""Paths of images that all have the same logits, as strips or, for plain features, as tables."""

from __future__ import annotations

from dataclasses import dataclass

from elbowroom.audit.gallery import Exhibits, PathExample
from elbowroom.report.exhibits import Features, feature_table
from elbowroom.report.figures import number
from elbowroom.report.pictures import Picture, is_picture, picture


@dataclass(frozen=True)
class Point:
    """`picture` is None for plain features."""

    picture: Picture | None
    distance: float
    decision: str
    feature_mse: float


@dataclass(frozen=True)
class PathView:
    """`end`: where the path ends, in words."""

    found: PathExample
    points: list[Point]
    features: Features | None
    end: str


def path_views(exhibits: Exhibits) -> list[PathView]:
    return [_view(found, exhibits.bounds) for found in exhibits.paths]


def _view(found: PathExample, bounds: tuple[float, float]) -> PathView:
    drawn = is_picture(found.points.shape[1:])
    points = [
        Point(
            picture(point, bounds, _alt(found, place), "") if drawn else None,
            float(found.distance[place]),
            found.decisions[place],
            float(found.feature_mse[place]),
        )
        for place, point in enumerate(found.points)
    ]
    features = None
    if not drawn:
        columns = [
            (f"at {number(point.distance)}", found.points[i]) for i, point in enumerate(points)
        ]
        features = feature_table(columns, found.points[0], found.points[-1])
    return PathView(found, points, features, _end(found))


def _alt(found: PathExample, place: int) -> str:
    if place == 0:
        return f"sample {found.index}: {found.label}"
    return f"point {place + 1} of {len(found.points)}: has the logits of sample {found.index}"


def _end(found: PathExample) -> str:
    last, nearest = number(float(found.distance[-1])), number(found.nearest)
    if last == nearest:
        return f"The walk ends {last} away from the other sample, as far as the example above."
    side = "farther than" if found.distance[-1] > found.nearest else "nearer than"
    return (
        f"The walk ends {last} away from the other sample, {side} the example above, which another "
        f"search found {nearest} away."
    )
