"""The figures of the NSPGD paper, for `elbowroom figure`."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from elbowroom.invariance.equi_confidence import EquiConfidence
from elbowroom.invariance.nspgd import NSPGD
from elbowroom.invariance.null_space_step import NullSpaceStep
from elbowroom.norms import L2
from elbowroom.papers import nspgd, nspgd_pages
from elbowroom.papers.page import About, grey_scale
from elbowroom.perception import SSIM, Lp, PerceptualDistance

if TYPE_CHECKING:
    from elbowroom.cli.papers import Job, Made

# Without another threshold: an L2 distance of this share of the input box's diagonal, which is an
# average change of 5 % per pixel; on MNIST 1.4.
INDISTINGUISHABLE = 0.05


def figure_2(job: Job, name: str) -> Made:
    """Null space steps from each sample to the next one of another class."""
    step = NullSpaceStep(**_taken(job, name, NullSpaceStep))
    other = nspgd.other_class(job.y)
    shown = nspgd.figure_2(job.clf, job.x, job.x[other], step=step)
    page = nspgd_pages.figure_2_page(
        shown,
        _told(job, step),
        labels=list(zip(job.y.tolist(), job.y[other].tolist(), strict=True)),
        samples=job.numbers.tolist(),
        scale=grey_scale(job.clf, job.x),
    )
    keys = ("distance_start", "distance", "dimension", "held", "logit_change", "outside")
    return page, {key: getattr(shown.found, key).tolist() for key in keys}


def figure_5(job: Job, name: str) -> Made:
    """Images of one target of each class, reached from a source of each other class."""
    attack = _attack(job, name)
    found = nspgd.figure_5(job.clf, job.x, job.y, attack=attack, seed=job.seed, advance=job.advance)
    found = _numbered(job, found)
    page = nspgd_pages.figure_5_page(found, _told(job, attack), scale=grey_scale(job.clf, job.x))
    return page, _values(found)


def figure_7(job: Job, name: str) -> Made:
    """Success rates by target image and source class."""
    attack = _attack(job, name, also=("targets", "sources"))
    found = nspgd.transform(
        job.clf,
        job.x,
        job.y,
        attack=attack,
        targets=_count(job.options, "targets", 1),
        sources=_count(job.options, "sources", 3),
        seed=job.seed,
        advance=job.advance,
    )
    found = _numbered(job, found)
    matrix, summary = nspgd.success_matrix(found), nspgd.table_1(found)
    assert attack.perceptual is not None
    decided_by = f"{attack.perceptual.name} below {attack.threshold:.3g}"
    page = nspgd_pages.figure_7_page(matrix, summary, _told(job, attack), decided_by=decided_by)
    # JSON has no NaN.
    rates = [[None if math.isnan(r) else r for r in row] for row in matrix.rates.tolist()]
    return page, {
        "success_rate": summary.success,
        "rates": rates,
        "target_classes": matrix.target_classes.tolist(),
        "source_classes": matrix.source_classes.tolist(),
        **_values(found),
    }


def figure_9(job: Job, name: str) -> Made:
    """Confidences around walks from each sample to the next one of another class."""
    attack = _attack(job, name, also=("radii", "samples", "clip"))
    own = {key: job.options[key] for key in ("radii", "samples", "clip") if key in job.options}
    around = EquiConfidence(**own, seed=job.seed)
    toward = job.x[nspgd.other_class(job.y)]
    found = nspgd.figure_9(job.clf, job.x, toward, attack=attack, around=around)
    page = nspgd_pages.figure_9_page(found, _told(job, f"{attack}, {around}"))
    return page, {
        "steps": found.steps.tolist(),
        "radii": found.around.radii.tolist(),
        "percentiles": found.around.percentiles.mean(dim=1).tolist(),
        "on_path": found.around.on_path.mean(dim=1).tolist(),
    }


def _attack(job: Job, name: str, also: tuple[str, ...] = ()) -> NSPGD:
    """NSPGD with the given options; `distance` and `threshold` decide about success."""
    given = _taken(job, name, NSPGD, without=("perceptual", "path_every"), also=("distance", *also))
    sides = (job.clf.upper - job.clf.lower).expand(job.x.shape[1:])
    diagonal = float(L2.length(sides[None])[0])
    distance = str(given.pop("distance", "l2")).lower()
    perceptual: PerceptualDistance
    if distance == "l2":
        perceptual = Lp(L2)
        given.setdefault("threshold", INDISTINGUISHABLE * diagonal)
    elif distance == "ssim":
        perceptual = SSIM(grey_scale(job.clf, job.x))
        if "threshold" not in given:
            raise ValueError("distance=ssim needs a threshold, such as --set threshold=0.1")
    else:
        raise ValueError(f"distance must be l2 or ssim, not {distance!r}")
    return NSPGD(perceptual=perceptual, **{key: given[key] for key in given if key not in also})


def _taken(
    job: Job, name: str, method: Any, without: tuple[str, ...] = (), also: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The options given, if `method` or the figure itself has them all."""
    known = [*(f.name for f in fields(method) if f.name not in without), *also]
    if unknown := [option for option in job.options if option not in known]:
        raise ValueError(f"{name} has no option {unknown[0]!r}; it has {', '.join(known)}")
    return dict(job.options)


def _count(options: dict[str, Any], name: str, usual: int) -> int:
    value = options.get(name, usual)
    if type(value) is not int:
        raise ValueError(f"{name} must be a whole number, not {value!r}")
    return value


def _told(job: Job, method: object) -> About:
    facts = [*job.about.facts, ("method", str(method)), ("samples", f"{len(job.x)} to choose from")]
    return replace(job.about, facts=facts)


def _numbered(job: Job, found: nspgd.Transformed) -> nspgd.Transformed:
    """With the samples' numbers in the data."""
    return replace(
        found,
        sources=job.numbers[found.sources.cpu()],
        targets=job.numbers[found.targets.cpu()],
        classes=found.classes.cpu(),
    )


def _values(found: nspgd.Transformed) -> dict[str, Any]:
    keys = ("sources", "targets", "distance", "confidence", "confidence_start", "success")
    return {key: getattr(found, key).tolist() for key in keys}
