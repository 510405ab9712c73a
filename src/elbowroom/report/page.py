"""From a summary and its exhibits to one HTML page without any other file."""

from __future__ import annotations

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from elbowroom.audit.gallery import Exhibits
from elbowroom.audit.summary import Summary
from elbowroom.report.charts import charts, distance_notes
from elbowroom.report.classes import matrix
from elbowroom.report.exhibits import invariance_views, on_manifold_views, sensitivity_views
from elbowroom.report.figures import count, number, percent, unit
from elbowroom.report.paths import path_views
from elbowroom.report.pictures import channel_note, is_picture
from elbowroom.report.words import answers


def render(summary: Summary, exhibits: Exhibits) -> str:
    """The page as a string: readable offline, in light and dark, on paper and on a phone."""
    shape = tuple(summary.data.shape)
    return (
        environment()
        .get_template("report.html")
        .render(
            summary=summary,
            exhibits=exhibits,
            answers=answers(summary, exhibits),
            failed=[check for check in summary.trust if not check.passed],
            charts=charts(summary, exhibits),
            distance_notes=distance_notes(summary, exhibits),
            sensitive=sensitivity_views(exhibits, summary.sensitivity.norm),
            invariant=invariance_views(exhibits, summary.data.classes),
            on_manifold=on_manifold_views(exhibits),
            paths=path_views(exhibits),
            matrix=matrix(summary),
            channel_note=channel_note(shape) if is_picture(shape) else None,
            plotly=Markup(get_plotlyjs()),
        )
    )


def environment(*packages: str) -> Environment:
    """Everything is escaped, save the style sheet and scripts that ship with the packages.

    packages: with templates of their own, which can extend and include those of the report.
    """
    templates = Environment(
        loader=ChoiceLoader([PackageLoader(name) for name in (*packages, "elbowroom.report")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Not a number is not JSON: better no page than one whose charts stay empty.
    templates.policies["json.dumps_kwargs"] = {"allow_nan": False}
    templates.filters.update(number=number, percent=percent, count=count, unit=unit)
    return templates
