"""The experiments of the Manifold paper, for `elbowroom experiment`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

from elbowroom.cli.bounds_experiments import Job, Made, Options, Size
from elbowroom.papers.manifold import Sweep, rank_correlations, sweep
from elbowroom.papers.manifold_sweep_pages import sweep_page
from elbowroom.report.figures import number, percent


def _figure_5(job: Job) -> Made:
    plan = Sweep(**job.options)
    found = sweep(plan, job.runs, seed=job.seed, advance=job.advance, say=job.say)
    page = sweep_page(found, job.about(plan.model, plan.data))
    correlations = rank_correlations(found)
    lines = [
        (
            f"{one.training}, {one.images}",
            f"seed {one.seed}: test error {percent(one.error.value)}, on-manifold success "
            f"{percent(one.on_manifold.value)}, regular {percent(one.regular.value)}",
        )
        for one in found
    ]
    lines += [
        (
            f"{training}",
            f"rank correlation of the test error with on-manifold success {number(on)}, with "
            f"regular success {number(off)}",
        )
        for training, (on, off) in correlations.items()
    ]
    # JSON has no NaN.
    told = {name: [None if v != v else v for v in each] for name, each in correlations.items()}
    return page, {"networks": [asdict(one) for one in found], "correlations": told}, lines


_SMALL = {
    "trainings": ["normal", "adversarial", "on-manifold", "random transformations"],
    "images": [250, 1000, 2500], "seeds": 1, "model": "fonts-cnn", "data": "fonts",
    "manifold": "fonts", "epochs": 20, "steps": 10, "tested": 2000, "attacked": 200, "restarts": 2,
}  # fmt: skip

#: Experiment -> how it is made, and its options at both sizes.
EXPERIMENTS: dict[str, tuple[Callable[[Job], Made], dict[Size, Options]]] = {
    "manifold-figure-5": (
        _figure_5,
        {
            "small": _SMALL,
            "paper": {
                name: list(value) if isinstance(value, tuple) else value
                for name, value in asdict(Sweep()).items()
            },
        },
    ),
}
