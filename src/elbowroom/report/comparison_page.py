"""From a comparison of classifiers to one HTML page without any other file."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup
from plotly.offline import get_plotlyjs

from elbowroom.audit.comparison import Comparison, Ranking
from elbowroom.report.comparison_charts import charts
from elbowroom.report.comparison_words import (
    COLUMNS,
    estimate,
    interval,
    notes,
    rows,
    sentences,
)
from elbowroom.report.figures import NONE, number, percent
from elbowroom.report.page import environment

MOST_NAMED = 3  # classifiers in the title


def render_comparison(found: Comparison, data: str, facts: Sequence[tuple[str, str]]) -> str:
    """The page as a string: readable offline, in light and dark, on paper and on a phone.

    data:  the samples' name. facts: (name, value) of what is needed to make the page again.
    """
    names = list(found.measured)
    title = " / ".join(names) if len(names) <= MOST_NAMED else f"{len(names)} classifiers"
    drawn = charts(found)
    return (
        environment()
        .get_template("comparison.html")
        .render(
            found=found,
            title=title,
            data=data,
            columns=COLUMNS,
            rows=rows(found),
            medians=_medians(found),
            pairs=_pairs(found),
            sentences=sentences(found),
            notes=notes(found),
            facts=[*facts, *_facts(found)],
            charts=drawn,
            plotly=Markup(get_plotlyjs()),
        )
    )


def _medians(found: Comparison) -> list[tuple[str, ...]]:
    """Of each classifier: median radius and distance, failures, seconds a sample."""
    certified = {name: side.median for name, side in found.certified_sides.items()}
    return [
        (
            name,
            estimate(certified.get(name)),
            estimate(found.attacked_sides[name].median),
            str(measured.failed),
            number(measured.cost.seconds / found.samples),
        )
        for name, measured in found.measured.items()
    ]


def _pairs(found: Comparison) -> list[tuple[str, ...]]:
    """Of every two: differences of the means, the first less the second, and what is proved."""
    return [
        (
            f"{pair.first}, {pair.second}",
            _difference(found.certified, pair.first, pair.second),
            _difference(found.attacked, pair.first, pair.second),
            percent(pair.first_farther),
            percent(pair.second_farther),
        )
        for pair in found.proved
    ]


def _difference(ranking: Ranking | None, first: str, second: str) -> str:
    for each in ranking.differences if ranking else ():
        if (each.first, each.second) == (first, second):
            return f"{number(each.mean)} {interval(each.low, each.high)}"
        if (each.first, each.second) == (second, first):
            return f"{number(-each.mean)} {interval(-each.high, -each.low)}"
    return NONE


def _facts(found: Comparison) -> list[tuple[str, str]]:
    return [
        ("samples", str(found.samples)),
        ("attack", found.attack),
        ("certificate", found.certificate),
        ("intervals", f"level {found.level:g}, {found.resamples} resamples, seed {found.seed}"),
    ]
