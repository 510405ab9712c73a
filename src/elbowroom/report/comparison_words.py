"""A comparison of classifiers in words and table cells, for the page and for the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from elbowroom.audit.bootstrap import fewest
from elbowroom.audit.comparison import Comparison, Difference, Estimate, Proved, Ranking
from elbowroom.report.figures import count, number, percent

COLUMNS = ("model", "accuracy", "certified", "attacked", "rank certified", "rank attacked")
MANY = 1_000_000  # samples that nobody will measure


def rows(found: Comparison) -> list[tuple[str, ...]]:
    """A row of `COLUMNS` for each classifier: means with their intervals, ranks."""
    certified = {name: side.mean for name, side in found.certified_sides.items()}
    return [
        (
            name,
            percent(measured.accuracy),
            estimate(certified.get(name)),
            estimate(found.attacked_sides[name].mean),
            rank(found.certified, name),
            rank(found.attacked, name),
        )
        for name, measured in found.measured.items()
    ]


def estimate(value: Estimate | None) -> str:
    """A figure and its interval, if there is one."""
    if value is None:
        return "none"
    told = number(value.value)
    return told if value.interval is None else f"{told} {interval(*value.interval)}"


def interval(low: float, high: float) -> str:
    return f"[{number(low)}, {number(high)}]"


def rank(ranking: Ranking | None, name: str) -> str:
    """The rank, or the best and worst one that the samples allow."""
    if ranking is None or name not in ranking.ranks:
        return "none"
    best, worst = ranking.ranks[name]
    return str(best) if best == worst else f"{best} to {worst}"


def sentences(found: Comparison) -> list[str]:
    """What the samples tell, and what they do not: both rankings, and what is proved."""
    if len(found.measured) == 1:
        return ["There is one classifier: nothing to compare it with."]
    told = []
    if found.samples < (least := fewest(found.level)):
        told.append(
            f"{_samples(found.samples)} cannot tell an order at {_level(found)}: it takes {least} "
            "at least."
        )
    told += _ranking("certified radius", found.certified, found)
    told += _ranking("attacked distance", found.attacked, found)
    return told + _proofs(found)


def _ranking(figure: str, ranking: Ranking | None, found: Comparison) -> list[str]:
    if ranking is None:
        return [f"No order by {figure}: fewer than two classifiers have a finite mean of it."]
    told = []
    if len(ranking.order) > 2:
        parts = ", then ".join(_and(group) for group in ranking.groups)
        told.append(
            f"By {figure}: {parts}."
            if len(ranking.groups) > 1
            else f"By {figure}, the samples do not part {parts} into better and worse ones."
        )
    if found.samples < fewest(found.level):
        return told
    place = {name: number for number, name in enumerate(ranking.order)}
    return told + [
        difference(each, figure, found)
        for each in ranking.differences
        if not each.separated or abs(place[each.second] - place[each.first]) == 1
    ]


def difference(each: Difference, figure: str, found: Comparison) -> str:
    """Whether two classifiers are told apart, by how much, or how many samples that would take."""
    by = f"{number(each.mean)} {found.norm}"
    if each.separated:
        ahead = f"{by} {interval(each.low, each.high)}"
        return f"By {figure}, {each.first} is ahead of {each.second} by {ahead} on average."
    pair = f"By {figure}, {each.first} and {each.second} are not separated"
    if each.mean == 0:
        return f"{pair}: their means are the same."
    if not math.isfinite(each.enough):
        return f"{pair}: too few samples differ to tell whether {by} is chance."
    return (
        f"{pair} by these {_samples(found.samples)}: the means differ by {by} "
        f"{interval(each.low, each.high)}; if that is the true difference, {_enough(each.enough)} "
        "would do."
    )


def _proofs(found: Comparison) -> list[str]:
    """On which share of the samples the order of two classifiers is certain."""
    proved = [pair for pair in found.proved if pair.first_farther or pair.second_farther]
    told = [_proof(pair) for pair in proved]
    if not proved:
        return ["On no sample an order is proved: no radius exceeds another's distance."]
    if len(proved) < len(found.proved):
        told.append("Of no other two an order is proved on any sample.")
    return told


def _proof(pair: Proved) -> str:
    sides = [(pair.first_farther, pair.first), (pair.second_farther, pair.second)]
    (less, behind), (more, ahead) = sorted(sides)
    other = f", and nearer on {percent(less)}" if less else ""
    return (
        f"Proved: the decision boundary of {ahead} is farther than that of {behind} on "
        f"{percent(more)} of the samples{other}; the rest is open."
    )


def notes(found: Comparison) -> list[str]:
    """What has to be known to read the figures."""
    told = [
        f"Means over {_samples(found.samples)} in {found.norm}; a sample that a classifier gets "
        f"wrong has radius 0 and distance 0. Brackets are {_level(found)} intervals; those of the "
        "differences of a ranking hold all at once (studentised bootstrap of the paired samples, "
        "max-T)."
    ]
    for name, measured in found.measured.items():
        if not measured.right.any():
            told.append(f"{name} classifies no sample rightly: all its distances are 0.")
        if measured.uncertified:
            told.append(f"No certificate covers {name}: {measured.uncertified}.")
    return told + _failures(found)


def _failures(found: Comparison) -> list[str]:
    failed = {name: m.failed for name, m in found.measured.items() if m.failed}
    if not failed:
        return []
    where = _and([f"{_samples(number)} of {name}" for name, number in failed.items()])
    told = [
        f"The attack found nothing on {where}. That proves nothing; medians count it as infinite, "
        "means as the farthest point of the input box."
    ]
    if endless := [n for n in failed if math.isinf(found.attacked_sides[n].mean.value)]:
        told.append(f"Without input bounds {_and(endless)} cannot be ranked by attacked distance.")
    return told


def _enough(wanted: float) -> str:
    if wanted >= MANY:
        return "more than a million"
    step = 10 ** max(0, math.floor(math.log10(wanted)) - 1)  # two digits
    return f"about {count(math.ceil(wanted / step) * step)}"


def _level(found: Comparison) -> str:
    return f"{100 * found.level:g}%"


def _samples(samples: int) -> str:
    return "1 sample" if samples == 1 else f"{count(samples)} samples"


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
