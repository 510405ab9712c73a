"""Tables 5.1 to 5.3 and Fig. 5.8 to 5.13 of the Bounds thesis as pages."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from elbowroom.papers.bounds_charts import boxes_chart, keys_of, lines_chart
from elbowroom.papers.bounds_cnn import MAX_EPS, PUBLISHED, PerturbedImages
from elbowroom.papers.bounds_compare import Spread, plain
from elbowroom.papers.bounds_layers import (
    LayerBounds,
    ScaledKernels,
    increase_by_layers,
    increase_by_scaling,
)
from elbowroom.papers.bounds_pages import THESIS, called
from elbowroom.papers.page import About, Figure, Panel, Strip, Table, frame, render
from elbowroom.report.figures import NONE, count, number, percent

SHOWN = 6
STRONGEST = 46  # percent of colour in the class matrix
KERNELS_SHOWN, LAYERS_SHOWN = 10, 6
COMPUTED = "computed as in the thesis"
FOUND = "nearest example found"


def images_page(found: Mapping[str, PerturbedImages], about: About, *, name: str) -> str:
    """Tables 5.1 and 5.2, or 5.3, and Fig. 5.8 to 5.11, from `perturb` of each network.

    name: such as "Table 5.3".
    """
    eps = [one.eps for one in found.values()]
    chart = boxes_chart({"FGS": eps}, list(found), "eps, grey levels of 255")
    figure = Figure(
        name=f"{THESIS}, {name}",
        title="convolutional networks",
        lede=f"Images that the fast gradient sign method moves across a decision boundary with at "
        f"most {MAX_EPS} of 255 grey levels a pixel, beside the published bound and sound ones.",
        captions=[
            "Normalised lengths are L2 lengths in grey levels, divided by the number of pixels and "
            "channels, means over the samples. Tightness is a bound's radius by the distance of "
            "an attack's example, a median. A violation is an example inside a radius."
        ],
        strips=[strip for key, one in found.items() for strip in _gallery(key, one)],
        panels=[Panel("eps", "Steps of FGS", chart)],
        legend=[("curve-1", "FGS")],
        tables=[
            _bounds_table(found),
            _eps_table(found),
            *(_heat_table(key, one) for key, one in found.items()),
        ],
        last=None,
        over="the networks",
    )
    return render(figure, about)


def _bounds_table(found: Mapping[str, PerturbedImages]) -> Table:
    rows = []
    for key, one in found.items():
        told, measured = PUBLISHED[key], one.measured
        fgs = measured.distances["FGS"]
        for bound, radii in measured.radii.items():
            tight = [Spread.of(measured.tightness(attack, bound)) for attack in ("FGS", "Closest")]
            refused = f": {measured.refused[bound]}" if bound in measured.refused else ""
            cells = [
                number(one.normalised(radii)),
                number(one.normalised(fgs)),
                *(number(spread.median if spread else None) for spread in tight),
                count(int(measured.violations(bound).sum())),
            ]
            rows.append((f"{key}, {called(measured, bound)}{refused}", cells))
        rows.append((f"{key}, thesis", [number(told.bound), number(told.distance), *[NONE] * 3]))
    columns = ("bound", "FGS", "tightness by FGS", "by Closest", "violations")
    return Table("Normalised bounds and distances, as in Table 5.1", "network", columns, rows)


def _eps_table(found: Mapping[str, PerturbedImages]) -> Table:
    rows = []
    for key, one in found.items():
        told, here = PUBLISHED[key], Spread.of(one.eps)
        values = [here.least, here.most, here.mean, here.median, here.std] if here else [None] * 5
        rate = one.measured.success_rate("FGS")
        cells = [percent(one.accuracy), *(number(value) for value in values), percent(rate)]
        samples = f"{count(len(one.x))} samples, accuracy of {count(one.tested)}"
        rows.append((f"{key}: {samples}", cells))
        published = [percent(told.accuracy), *(number(v) for v in told.eps), percent(told.rate)]
        rows.append((f"{key}, thesis", published))
    columns = ("accuracy", "min", "max", "mean", "median", "std", "rate")
    title = "Steps of FGS in grey levels, as in Tables 5.2 and 5.3"
    return Table(title, "network", columns, rows)


def _heat_table(key: str, one: PerturbedImages) -> Table:
    heat = one.heat()
    changed = heat.clone().fill_diagonal_(0)
    most = max(int(changed.max()), 1)
    rows = [
        (label, [count(value) if value else "" for value in row])
        for label, row in zip(one.classes, heat.tolist(), strict=True)
    ]
    colours = [[round(STRONGEST * value / most) for value in row] for row in changed.tolist()]
    title = f"{key}: class before (row) and after (column); on the diagonal, not perturbed"
    return Table(title, "class", one.classes, rows, colours)


def _gallery(key: str, one: PerturbedImages) -> list[Strip]:
    """Images from small steps to large ones, evenly over their ranks."""
    order = one.eps.argsort(stable=True)
    order = order[one.eps[order].isfinite()]
    if not len(order):
        return []
    places = torch.linspace(0, len(order) - 1, min(SHOWN, len(order))).round().long()
    frames = []
    for row in order[places].tolist():
        before, after = one.x[row], one.measured.points["FGS"][row]
        names = [one.classes[int(k)] for k in (one.measured.decisions[row], one.reached[row])]
        lines = [f"eps = {number(float(one.eps[row]))}"]
        label = f"{names[0]} to {names[1]}"
        role = f"sample {row}"
        frames.append(
            frame(after, (0.0, 1.0), role=role, label=label, lines=lines, change=(before, after))
        )
    return [Strip.of(f"{key}: perturbed by FGS", frames)]


def figure_5_12_page(found: Mapping[str, ScaledKernels], about: About) -> str:
    """Fig. 5.12: the computed curve, and bounds and distances of networks."""
    first = next(iter(found.values()))
    names = list(first.measured[0].radii)
    keys = {COMPUTED: "muted", FOUND: "curve-6", **{name: key for key, name in keys_of(names)}}
    xs = list(range(KERNELS_SHOWN + 1))
    computed = [increase_by_scaling(n, first.scale) for n in xs]
    curve = {COMPUTED: (xs, computed)}
    chart = lines_chart(curve, x="kernels scaled", y="relative to none", keys={COMPUTED: "muted"})
    panels = [Panel("computed", "Computed as in the thesis", chart)]
    rows = [("computed", [number(value) for value in computed])]
    tables = [Table("As in the thesis, over kernels scaled", "", [str(n) for n in xs], rows)]
    for network, one in found.items():
        xs = list(range(len(one.measured)))
        curves = {COMPUTED: [increase_by_scaling(n, one.scale) for n in xs], FOUND: one.relative()}
        curves |= {name: one.relative(name) for name in names}
        shown = {name: (xs, [plain(value) for value in values]) for name, values in curves.items()}
        chart = lines_chart(shown, x="kernels scaled", y="relative to none", keys=keys)
        panels.append(Panel(f"scaled-{network}", network, chart))
        rows = [(name, [number(value) for value in values]) for name, values in curves.items()]
        rows.append(("accuracy", [percent(value) for value in one.accuracy]))
        rows.append(("margin of the logits, median", [number(value) for value in one.margins]))
        for name in names:
            violations = [count(int(m.violations(name).sum())) for m in one.measured]
            rows.append((f"violations of {called(one.measured[0], name)}", violations))
        title = f"{network}: relative to no kernel scaled"
        tables.append(Table(title, "kernels scaled", [str(n) for n in xs], rows))
    figure = Figure(
        name=f"{THESIS}, Fig. 5.12",
        title="kernels scaled down",
        lede=f"Bounds and distances when one convolution after another is multiplied by "
        f"{first.scale:g}, relative to the network as it is. The computed curve takes the "
        "margin of the logits to stay as it is; in a network it shrinks with the kernels.",
        captions=["Medians over the samples."],
        panels=panels,
        legend=[(key, name) for name, key in keys.items()],
        tables=tables,
        last=None,
        over="the number of kernels scaled",
    )
    return render(figure, about)


def figure_5_13_page(found: Mapping[str, LayerBounds], about: About) -> str:
    """Fig. 5.13: the computed curve, and eq. 5.13 with the bounds of networks."""
    names = list(dict.fromkeys(name for one in found.values() for name in one.kappas))
    keys = {name: key for key, name in keys_of(names)}
    xs = list(range(1, LAYERS_SHOWN + 1))
    computed = [increase_by_layers(n) for n in xs]
    log = {"type": "log"}
    chart = lines_chart(
        {COMPUTED: (xs, computed)}, x="layers", y="relative", keys={COMPUTED: "muted"}, **log
    )
    panels = [Panel("computed", "Computed as in the thesis", chart)]
    rows = [("computed", [number(value) for value in computed])]
    tables = [Table("As in the thesis, over the number of layers", "", [str(n) for n in xs], rows)]
    for network, one in found.items():
        places = list(range(1, len(one.layers) + 1))
        curves = {name: one.relative(name) for name in one.kappas}
        shown = {
            name: (places, [plain(value) for value in values]) for name, values in curves.items()
        }
        chart = lines_chart(shown, x="layers, from the last", y="relative", keys=keys, **log)
        panels.append(Panel(f"layers-{network}", network, chart))
        # From the last layer on, as the curves.
        layers = list(reversed(one.layers))
        rows = [(name, [number(value) for value in values]) for name, values in curves.items()]
        for name in one.kappas:
            ratios = [NONE, *(number(value) for value in reversed(one.ratios(name)))]
            rows.append((f"{name}: by that of the layer after", ratios))
        tables.append(Table(f"{network}: relative increase", "from the layer on", layers, rows))
    notes = [
        f"{network}: {name} refused a part of the network: {reason}."
        for network, one in found.items()
        for name, reason in one.refused.items()
    ]
    figure = Figure(
        name=f"{THESIS}, Fig. 5.13",
        title="every layer's bound raised a little",
        lede="By how much the bound at the input grows if that of every layer is raised by 5% of "
        "the last one's: with the thesis's constants, and with the bounds of networks.",
        captions=[
            "Eq. 5.13, medians over the samples; the thesis takes each layer's bound to be 0.01 of "
            "that of the layer after it. Bounds of networks are those of what follows each layer.",
            *notes,
        ],
        panels=panels,
        legend=[("muted", COMPUTED), *((key, name) for name, key in keys.items())],
        tables=tables,
        last=None,
        over="the number of layers",
    )
    return render(figure, about)
