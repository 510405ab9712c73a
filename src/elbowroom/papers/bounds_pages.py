"""Tables 3.1, 4.2 and 4.3 and Fig. 4.3 of the Bounds thesis as pages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from elbowroom.papers.bounds_charts import Curves, boxes_chart, keys_of, lines_chart
from elbowroom.papers.bounds_compare import BEST, EXACT, Measured, Spread
from elbowroom.papers.bounds_mlp import ACCURACY, TABLE_4_3, Regularised, Trained
from elbowroom.papers.bounds_random import Setting
from elbowroom.papers.page import About, Figure, Panel, Table, render
from elbowroom.report.figures import NONE, count, number, percent

THESIS = "Bounds thesis"
Statistics = tuple[float, float, float]


def table_3_1_page(found: Sequence[Measured], settings: Sequence[Setting], about: About) -> str:
    """Table 3.1 and Fig. 3.2, from `table_3_1`."""
    names = [str(row + 1) for row in range(len(settings))]
    rows = dict(zip(names, found, strict=True))
    figure = Figure(
        name=f"{THESIS}, Table 3.1 and Fig. 3.2",
        title="random linear classifiers",
        lede="How much longer perturbations are than the lower bound. For linear classifiers the "
        "bound is the distance itself: what deviates is the fast gradient sign method.",
        captions=[settings_note(settings)],
        panels=_panels(rows, ("FGS", EXACT)),
        legend=legend(found[0]),
        tables=_tables(rows, "FGS", [setting.published for setting in settings], EXACT),
        last=None,
        over="the rows of the table",
    )
    return render(figure, about)


def table_4_2_page(found: Sequence[Measured], settings: Sequence[Setting], about: About) -> str:
    """Table 4.2 and Fig. 4.1, from `table_4_2`; boxes are over averages of networks."""
    names = [str(row + 1) for row in range(len(settings))]
    rows = dict(zip(names, found, strict=True))
    figure = Figure(
        name=f"{THESIS}, Table 4.2 and Fig. 4.1",
        title="random multilayer perceptrons",
        lede="How much longer perturbations are than the published bound and the sound ones: "
        "a box for each bound and row of the table, over the averages of networks.",
        captions=[settings_note(settings)],
        panels=_panels(rows, ("FGS or FGV", BEST), lambda m, values: m.by_network(values)),
        legend=legend(found[0]),
        tables=_tables(rows, "FGS or FGV", [setting.published for setting in settings]),
        last=None,
        over="the rows of the table",
    )
    return render(figure, about)


def table_4_3_page(found: Mapping[str, Trained], about: About) -> str:
    """Table 4.3 and Fig. 4.2, from `table_4_3`."""
    rows = {name: one.measured for name, one in found.items()}
    accuracy = Table(
        title="Accuracy on the test split",
        corner="data",
        columns=("here", "in the thesis"),
        rows=[
            (name, [percent(one.accuracy), percent(ACCURACY[name])]) for name, one in found.items()
        ],
    )
    figure = Figure(
        name=f"{THESIS}, Table 4.3 and Fig. 4.2",
        title="trained multilayer perceptrons",
        lede="How much longer perturbations are than the published bound and the sound ones, for "
        "networks with tanh trained on standardised features.",
        panels=_panels(rows, ("FGS or FGV", BEST)),
        legend=legend(next(iter(rows.values()))),
        tables=[accuracy, *_tables(rows, "FGS or FGV", [TABLE_4_3[name] for name in rows])],
        last=None,
        over="the data sets",
    )
    return render(figure, about)


def figure_4_3_page(found: Mapping[str, Regularised], about: About) -> str:
    """Fig. 4.3, from `figure_4_3`."""
    keys = {"accuracy": "curve-1", "error": "curve-8", "perturbation": "curve-5"}
    panels, tables = [], []
    for name, one in found.items():
        medians = [spread.median if spread else None for spread in one.distances]
        shares: Curves = {
            "accuracy": (one.weights, one.accuracy),
            "error": (one.weights, one.error),
        }
        axis = {"range": [-0.02, 1.02], "tickformat": ".0%"}
        chart = lines_chart(shares, x="weight of the margin", y="share", keys=keys, **axis)
        panels.append(Panel(f"shares-{name}", f"{name}: accuracy and error", chart))
        chart = lines_chart(
            {"perturbation": (list(one.weights), medians)},
            x="weight of the margin",
            y="median length (L2)",
            keys=keys,
            rangemode="tozero",
        )
        panels.append(Panel(f"lengths-{name}", f"{name}: perturbations", chart))
        rows = [
            (
                number(weight),
                [
                    percent(one.accuracy[n]),
                    percent(one.test[n]),
                    percent(one.error[n]),
                    number(medians[n]),
                ],
            )
            for n, weight in enumerate(one.weights)
        ]
        columns = ("accuracy", "on the test split", "error", "median perturbation, L2")
        tables.append(Table(name, "weight", columns, rows))
    figure = Figure(
        name=f"{THESIS}, Fig. 4.3",
        title="regularising the output layer",
        lede="Networks trained to have wide margins in their last hidden layer: how many samples "
        "they get right, and for how many FGS or FGV finds another decision.",
        captions=[
            "Accuracy and error are over all data, as in the thesis. Where the margin weighs more, "
            "networks give one class to everything: nothing can be perturbed then."
        ],
        panels=panels,
        legend=[
            (keys["accuracy"], "accuracy"),
            (keys["error"], "error: perturbed by FGS or FGV"),
            (keys["perturbation"], "perturbations, median"),
        ],
        tables=tables,
        last=None,
        over="the weight of the margin",
    )
    return render(figure, about)


def legend(found: Measured) -> list[tuple[str, str]]:
    """The bounds, and whether they are theorems."""
    return [(key, called(found, name)) for key, name in keys_of(list(found.radii))]


def called(found: Measured, bound: str) -> str:
    """A bound with what it is worth."""
    return f"{bound} ({'sound' if found.sound[bound] else 'not a certificate'})"


def settings_note(settings: Sequence[Setting]) -> str:
    """What the rows are."""
    rows = [
        f"{row}: {count(setting.networks)} networks, {count(setting.samples)} samples each, "
        f"{setting.describe()}"
        for row, setting in enumerate(settings, start=1)
    ]
    return f"Rows: {'; '.join(rows)}."


def _panels(
    rows: Mapping[str, Measured],
    attacks: Sequence[str],
    average: Callable[[Measured, Tensor], Tensor] = lambda _, values: values,
) -> list[Panel]:
    panels = []
    bounds = list(next(iter(rows.values())).radii)
    for place, attack in enumerate(attacks):
        groups = {
            bound: [average(one, one.deviations(attack, bound)) for one in rows.values()]
            for bound in bounds
        }
        chart = boxes_chart(groups, list(rows), "distance less bound (L2)")
        title = attack if attack.isupper() else attack[0].upper() + attack[1:]
        panels.append(Panel(f"deviations-{place}", f"{title}: deviation from the bound", chart))
    return panels


def _tables(
    rows: Mapping[str, Measured],
    attack: str,
    published: Sequence[Statistics],
    strong: str = BEST,
) -> list[Table]:
    """A table for each bound: deviations as in the thesis, then how tight the bound is."""
    first = next(iter(rows.values()))
    columns = (
        f"{attack}: mean", "median", "std", "success", "thesis: mean", "median", "std",
        f"{strong}: mean", "median", "std", "tightness, median", "violations",
    )  # fmt: skip
    tables = []
    for bound in first.radii:
        cells = [
            (
                name,
                [
                    *statistics(one.deviations(attack, bound)),
                    percent(one.success_rate(attack)),
                    *(number(value) for value in told),
                    *statistics(one.deviations(strong, bound)),
                    *statistics(one.tightness(strong, bound))[1:2],
                    count(int(one.violations(bound).sum())),
                ],
            )
            for (name, one), told in zip(rows.items(), published, strict=True)
        ]
        refused = {one.refused[bound] for one in rows.values() if bound in one.refused}
        note = f"; refused: {'; '.join(sorted(refused))}" if refused else ""
        title = f"Deviations from {called(first, bound)}{note}"
        tables.append(Table(title, "row", columns, cells))
    return tables


def statistics(values: Tensor) -> list[str]:
    """Mean, median and standard deviation; dashes without numbers."""
    spread = Spread.of(values)
    return [number(v) for v in (spread.mean, spread.median, spread.std)] if spread else [NONE] * 3
