"""The linear region attack for invariance against closed forms, brute force and its own regions."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from torch import nn

from elbowroom import L2, Classifier
from elbowroom.goals import SameLogits
from elbowroom.graph import UnsupportedOperationError
from elbowroom.invariance import LinearRegionInversion
from elbowroom.invariance.base import Problem
from elbowroom.invariance.linear_region import VARIANTS
from elbowroom.invariance.linear_region_walk import InversionWalk, Visit
from elbowroom.regions import Accelerated, Polytopes, WorkingSet, equal_to
from elbowroom.sampling import SampleRng
from oracles.linear import problem as linear_problem
from oracles.polytopes import NAMES, classifier, shape_of
from oracles.regions import every_pattern, least_distance

QUICK = Accelerated(steps=30, power_iterations=8, decision_factor=3.0)
EXACT = WorkingSet()


@dataclass(frozen=True, kw_only=True)
class Recording(WorkingSet):
    """Keeps what it was asked and what it found."""

    calls: list = field(default_factory=list)

    def __call__(self, polytopes, x, **options):
        found = super().__call__(polytopes, x, **options)
        self.calls.append((polytopes, x, options["ceiling"], found))
        return found


def _pairs(name, count=4, seed=3):
    clf = classifier(name)
    generator = torch.Generator().manual_seed(seed)
    start, toward = torch.rand(2, count, *shape_of(name), generator=generator, dtype=torch.float64)
    return clf, start, toward


def _walk(clf, start, toward, attack, tolerance=1e-8, known=True):
    logits = clf.logits(start)
    goal = SameLogits(logits, torch.full_like(logits[:, 0], tolerance))
    problem = Problem(clf, start, toward, goal, SampleRng(0, range(len(start))), known)
    return InversionWalk(problem, attack, attack.solver)


def _least(clf, polytopes, x):
    """Distances of `x` `(P, *shape)` from polytopes and box, by Lawson and Hanson's method."""
    features = x[0].numel()
    lower, upper = (v.expand(x.shape[1:]).flatten().numpy() for v in (clf.lower, clf.upper))
    box = np.vstack([np.eye(features), -np.eye(features)])
    slots = torch.arange(polytopes.slots).expand(len(x), -1)
    rows = polytopes.rows(slots).flatten(2).numpy()
    found = []
    for A, e, origin in zip(rows, polytopes.excess(x).numpy(), x.flatten(1).numpy(), strict=True):
        real = np.isfinite(e)
        room = np.concatenate([upper - origin, origin - lower])
        found.append(least_distance(np.vstack([A[real], box]), np.concatenate([-e[real], room])))
    return torch.tensor(found, dtype=torch.float64)


# -- the constraints on the features ---------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_bound_of_the_decision_against_plain_evaluation(name):
    clf, z, other = _pairs(name)
    wanted = clf.logits(other)
    decision, bound = equal_to(wanted)
    polytopes = Polytopes.at(clf, z, decision, bound=bound)
    off = clf.logits(z) - wanted
    count = off.shape[1]
    assert torch.allclose(polytopes.excess(z)[:, : 2 * count], torch.cat([off, -off], dim=1))
    # Of other rows, and of another cut of the same regions.
    rows = torch.tensor([2, 0])
    some = polytopes.take(rows).excess(z[rows])
    assert torch.allclose(some, polytopes.excess(z)[rows], atol=1e-12)
    cut = Polytopes.at(clf, z).with_decision(decision[:, :1], bound[:, :1] + 0.5)
    assert torch.allclose(cut.excess(z)[:, 0], off[:, 0] - 0.5)
    in_blocks = Polytopes.at(clf, z, decision, block=3, bound=bound)
    assert torch.allclose(in_blocks.excess(other), polytopes.excess(other), atol=1e-12)
    # Without a bound it is 0, to the last bit.
    nothing = Polytopes.at(clf, z, decision, bound=torch.zeros_like(bound))
    assert torch.equal(nothing.excess(other), Polytopes.at(clf, z, decision).excess(other))
    # The rows are derivatives, by finite differences within the region.
    slots = torch.arange(2 * count).expand(len(z), -1)
    rows = polytopes.rows(slots)
    generator = torch.Generator().manual_seed(0)
    way = torch.randn(z.shape, generator=generator, dtype=torch.float64)
    step = 1e-7
    slope = (clf.logits(z + step * way) - clf.logits(z - step * way)) / (2 * step)
    along = (rows * way[:, None]).flatten(2).sum(dim=2)
    assert torch.allclose(along, torch.cat([slope, -slope], dim=1), rtol=1e-5, atol=1e-6)


# -- one region ------------------------------------------------------------------------------------


@pytest.mark.parametrize("begin", ["start", "toward"])
def test_an_affine_network_is_solved_in_one_region(begin):
    clf, start, _ = linear_problem(rank=2, batch=5, classes=3)
    toward = start.flip(0) * 0.5
    attack = LinearRegionInversion(begin=begin, solver=EXACT, regions=3, tolerance=1e-16)
    found = attack.trace(clf, start=start, toward=toward)
    weight = clf.network.linear.weight.detach()
    move = (clf.logits(start) - clf.logits(toward)) @ torch.linalg.pinv(weight).T
    nearest = toward + move.view_as(toward)
    assert torch.allclose(found.result.example, nearest, atol=1e-9)
    assert torch.allclose(found.result.distance, L2.length(move))
    assert (found.visits.solved.sum(dim=0) == 1).all()  # there is no other region
    assert found.visits.full[0].all()


def test_the_published_solver_comes_near_the_closed_form():
    clf, start, _ = linear_problem(rank=1, batch=5, classes=2)
    toward = start.flip(0) * 0.5
    solver = Accelerated(steps=1000, decision_factor=1.0)
    found = LinearRegionInversion(solver=solver, regions=1, tolerance=1e-6, final_steps=0)(
        clf, start=start, toward=toward
    )
    weight = clf.network.linear.weight.detach()
    move = (clf.logits(start) - clf.logits(toward)) @ torch.linalg.pinv(weight).T
    assert found.success.all()
    assert torch.allclose(found.distance, L2.length(move), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("name", ["mlp", "1d", "pooled"])
def test_every_region_is_solved_as_an_independent_solver_does(name):
    clf, start, toward = _pairs(name, count=3)
    solver = Recording()
    attack = LinearRegionInversion.variant(1, solver=solver, regions=3)
    attack(clf, start=start, toward=toward)
    solved = 0
    for polytopes, x, ceiling, found in solver.calls:
        least = _least(clf, polytopes, x)
        right = found.solved
        assert torch.allclose(found.lower[right], least[right], rtol=1e-5, atol=1e-7)
        assert torch.allclose(L2.length(found.z - x)[right], least[right], rtol=1e-5, atol=1e-7)
        assert (least[~right] >= ceiling[~right] * (1 - 1e-6)).all()
        solved += int(right.sum())
    assert solved >= 3


# -- the walk --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_accepted_points_have_the_features_and_come_nearer(name):
    clf, start, toward = _pairs(name)
    attack = LinearRegionInversion.variant(1, solver=EXACT, regions=6)
    found = attack.trace(clf, start=start, toward=toward)
    visits, result = found.visits, found.result
    assert visits.accepted.sum(dim=0).min() >= 1
    assert (visits.feature_mse[visits.accepted] <= 1e-8).all()
    nearest = L2.length(start - toward)
    for accepted, distance in zip(visits.accepted, visits.distance, strict=True):
        assert (distance[accepted] < nearest[accepted]).all()
        nearest = torch.where(accepted, distance, nearest)
    assert torch.allclose(result.distance, nearest)
    assert torch.allclose(L2.length(result.example - toward), nearest)
    error = (clf.logits(result.example) - clf.logits(start)).square().mean(dim=1)
    assert result.success.all()
    assert (error <= 1e-8).all()
    assert torch.equal(clf.clamp(result.example), result.example)
    # What was not solved says so.
    assert torch.equal(visits.distance.isnan(), ~visits.solved)
    assert (visits.steps[~visits.solved] == 0).all()


def test_on_a_tiny_network_nothing_is_nearer_than_brute_force_finds():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2))
    clf = Classifier(model.double())
    generator = torch.Generator().manual_seed(0)
    start, toward = torch.rand(2, 5, 3, generator=generator, dtype=torch.float64)
    decision, bound = equal_to(clf.logits(start))
    patterns = Polytopes.at(clf, toward).affine
    everything = every_pattern(clf, (3,))
    count = len(next(iter(everything.pieces.values())))
    best = []
    for i in range(len(start)):
        rows = torch.full((count,), i)
        regions = Polytopes(
            clf, type(patterns)(patterns.graph, everything), decision[rows], bound=bound[rows]
        )
        best.append(_least(clf, regions, toward[rows]).min())
    exact = torch.stack(best)
    assert (exact < L2.length(start - toward)).all()
    for number in (1, 9):
        attack = LinearRegionInversion.variant(number, solver=EXACT, regions=40, tolerance=1e-14)
        found = attack(clf, start=start, toward=toward)
        assert (found.distance >= exact - 1e-6).all()
        assert (found.distance <= exact * (1 + 1e-4)).sum() >= 4


@pytest.mark.parametrize("solver", [EXACT, QUICK], ids=["exact", "published"])
def test_directed_steps_lead_from_toward_to_a_feasible_region(solver):
    clf, start, toward = _pairs("pooled")
    tolerance = 1e-8 if solver is EXACT else 1e-6
    attack = LinearRegionInversion(solver=solver, regions=1, adaptive=False)
    walk = _walk(clf, start, toward, attack, tolerance)
    for _ in range(12):
        walk.visit()
    assert (walk.best.distance < L2.length(start - toward)).sum() >= 3
    # The first region is that of `toward`; from there a step of fixed length, unless it was right.
    walk = _walk(clf, start, toward, attack, tolerance)
    seen = walk.visit()
    missed = seen.feature_mse > tolerance
    assert missed.any()
    lengths = L2.length(walk.base - toward)
    assert torch.allclose(lengths[missed], torch.full_like(lengths[missed], 0.1))
    assert torch.equal(walk.base[~missed], walk.aim[~missed])
    cosine = torch.cosine_similarity(
        (walk.base - toward).flatten(1), (walk.aim - toward).flatten(1), dim=1
    )
    assert torch.allclose(cosine, torch.ones_like(cosine))


def test_undirected_walks_return_to_the_best_point():
    clf, start, toward = _pairs("1d")
    attack = LinearRegionInversion.variant(7, solver=EXACT, regions=1)
    walk = _walk(clf, start, toward, attack)
    for _ in range(8):
        visit = walk.visit()
        refused = visit.solved & ~visit.accepted
        assert torch.equal(walk.base[refused], walk.best.point[refused])
        assert torch.allclose(walk.base, walk.best.point, atol=1e-3)


@pytest.mark.parametrize("judge", ["features", "violation"])
def test_the_judge_decides_about_full_steps(judge):
    clf, start, toward = _pairs("pooled", seed=5)
    solver = Recording()
    walk = _walk(clf, start, toward, LinearRegionInversion.variant(11, solver=solver, judge=judge))
    wanted = clf.logits(start)
    decided: list[bool] = []
    for _ in range(4):
        solver.calls.clear()
        before = walk.base.clone()
        lanes = walk.visit().solved
        polytopes, _, _, found = solver.calls[0]
        # What was not solved proposes a point with the features of the affine map.
        z = torch.where(found.solved[:, None, None, None], found.z, found.iterates[0])
        assert torch.allclose(polytopes.affine(z)[~found.solved], wanted[lanes][~found.solved])
        if judge == "features":
            error = (clf.logits(z) - wanted[lanes]).square().mean(dim=1)
        else:
            error = polytopes.excess(z).amax(dim=1).clamp(min=0).square()
        far = L2.length(z - before[lanes]) > 0.2
        jumped = L2.length(walk.base[lanes] - z) < 1e-2
        assert torch.equal(jumped[far], error[far] <= 1e-8)
        decided += jumped[far].tolist()
    assert set(decided) == {True, False}


def test_the_adaptive_threshold_stays_in_its_interval():
    clf, start, toward = _pairs("resnet")
    attack = LinearRegionInversion(solver=EXACT, regions=15, jump_range=(0.5, 16.0))
    visits = attack.trace(clf, start=start, toward=toward).visits
    assert visits.threshold.min() >= 0.5e-8
    assert visits.threshold.max() <= 16e-8
    expected = torch.full_like(visits.threshold[0], 1e-8)
    for threshold, solved, accepted in zip(
        visits.threshold, visits.solved, visits.accepted, strict=True
    ):
        assert torch.allclose(threshold, expected, rtol=1e-12)
        factor = torch.where(accepted, 0.5, 2.0).double()
        expected = torch.where(solved, (expected * factor).clamp(0.5e-8, 16e-8), expected)
    assert len(visits.threshold.unique()) > 3
    fixed = replace(attack, adaptive=False).trace(clf, start=start, toward=toward).visits
    assert (fixed.threshold == 1e-8).all()


def test_no_region_is_solved_twice():
    clf, start, toward = _pairs("resnet")
    solver = Recording()
    attack = LinearRegionInversion(solver=solver, regions=15)
    visits = attack.trace(clf, start=start, toward=toward).visits
    keys = [polytopes.pattern.fingerprints() for polytopes, *_ in solver.calls]
    lanes = [solved.nonzero().squeeze(1) for solved in visits.solved if solved.any()]
    pairs = list(zip(torch.cat(lanes).tolist(), torch.cat(keys).tolist(), strict=True))
    assert len(pairs) == len(set(pairs)) == int(visits.solved.sum())
    assert not visits.solved.all()


# -- configurations --------------------------------------------------------------------------------


TABLE_4_2 = """
0 start directed adaptive mixed
1 start directed adaptive exploit
2 start directed fixed mixed
3 start directed fixed exploit
4 start undirected adaptive mixed
5 start undirected adaptive explore
6 start undirected fixed mixed
7 start undirected fixed explore
8 toward directed adaptive mixed
9 toward directed adaptive exploit
10 toward directed fixed mixed
11 toward directed fixed exploit
"""


@pytest.mark.parametrize("line", TABLE_4_2.split("\n")[1:-1])
def test_the_variants_are_those_of_the_table_and_run(line):
    number, begin, directed, adaptive, explore = line.split()
    clf, start, toward = _pairs("mlp", count=3)
    attack = LinearRegionInversion.variant(
        int(number), solver=QUICK, regions=4, final_steps=20, tolerance=1e-5
    )
    assert attack.begin == begin
    assert attack.directed == (directed == "directed")
    assert attack.adaptive == (adaptive == "adaptive")
    if explore == "mixed":
        assert attack.explore.endswith("if not converged")
    else:
        assert attack.explore == explore
    found = attack(clf, start=start, toward=toward)
    assert found.success.all()
    assert (found.distance <= L2.length(start - toward)).all()


def test_variant_9_is_the_default():
    assert len(VARIANTS) == 12
    assert LinearRegionInversion.variant(9) == LinearRegionInversion()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"directed": False}, "cannot begin at toward"),
        ({"directed": False, "begin": "start"}, "infinite loop"),
        (
            {"directed": False, "begin": "start", "explore": "exploit if not converged"},
            "infinite loop",
        ),
        ({"begin": "middle"}, "begin must be one of"),
        ({"explore": "mixed"}, "explore must be one of"),
        ({"judge": "eye"}, "judge must be one of"),
        ({"pick": "first"}, "pick must be one of"),
        ({"jump_factors": (0.5, 2.0)}, "jump_factors"),
        ({"jump_range": (2.0, 4.0)}, "jump_range"),
        ({"q": 1.5}, "q must lie"),
        ({"gamma": 0.0}, "gamma be positive"),
        ({"step_length": 0.0}, "step_length"),
        ({"regions": 0}, "regions must be"),
        ({"final_steps": -1}, "final_steps"),
        ({"tolerance": -1.0}, "tolerance"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LinearRegionInversion(**options)


def test_what_cannot_be_searched_is_refused():
    with pytest.raises(ValueError, match="variants 0 to 11"):
        LinearRegionInversion.variant(12)
    clf, start, toward = _pairs("mlp", count=2)
    undirected = LinearRegionInversion.variant(7, solver=EXACT)
    with pytest.raises(ValueError, match="not a target"):
        undirected(clf, target=clf.logits(start), toward=toward)
    open_box = Classifier(clf.network, bounds=(-torch.inf, torch.inf))
    with pytest.raises(ValueError, match="finite bounds"):
        LinearRegionInversion(solver=EXACT)(open_box, start=start, toward=toward)
    smooth = Classifier(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double())
    x = torch.rand(2, 3, dtype=torch.float64)
    with pytest.raises(UnsupportedOperationError, match=r"not piecewise affine.*AdamOnLogits"):
        LinearRegionInversion()(smooth, start=x, toward=x.flip(0))


def test_without_bounds_the_published_solver_works():
    clf, start, toward = _pairs("mlp", count=2)
    open_box = Classifier(clf.network, bounds=(-torch.inf, torch.inf))
    attack = LinearRegionInversion(solver=QUICK, regions=10, final_steps=300, tolerance=1e-5)
    for given in ({"start": start}, {"target": clf.logits(start)}):
        found = attack(open_box, toward=toward, **given)
        assert found.distance.min() < 1


# -- targets and layers ----------------------------------------------------------------------------


def test_targets_without_a_known_point():
    clf, start, toward = _pairs("1d")
    target = clf.logits(start)
    attack = LinearRegionInversion(solver=EXACT, regions=10)
    found = attack(clf, target=target, toward=toward)
    assert found.success.all()
    assert torch.allclose(
        found.distance, attack(clf, start=start, toward=toward).distance, rtol=1e-6
    )
    # From the farthest corner of the box.
    corner = replace(attack, begin="start").trace(clf, target=target, toward=toward)
    assert corner.result.success.all()
    # No point has these: the answer is the best miss.
    far = replace(attack, regions=2)(clf, target=torch.full_like(target, 100.0), toward=toward)
    assert not far.success.any()
    assert far.distance.isinf().all()
    wide = (clf.logits(toward) - 100).square().mean(dim=1)
    assert (far.feature_mse <= wide).all()


@pytest.mark.parametrize("options", [{"up_to_shift": True}, {"layer": "4"}], ids=str)
def test_other_features(options):
    clf, start, toward = _pairs("mlp", count=3)
    attack = LinearRegionInversion(solver=EXACT, regions=20, begin="start", **options)
    found = attack(clf, start=start, toward=toward)
    assert (found.distance < L2.length(start - toward)).all()
    if "layer" in options:
        part = clf.network[:5]
        error = (part(found.example) - part(start)).square().mean(dim=1)
    else:
        gap = clf.logits(found.example) - clf.logits(start)
        error = (gap - gap.mean(dim=1, keepdim=True)).square().mean(dim=1)
        assert gap.mean(dim=1).abs().max() > 1e-3
    assert (error <= 1e-8).all()


def test_what_agrees_already_needs_no_region():
    clf, start, _ = _pairs("mlp")
    found = LinearRegionInversion(regions=2, solver=EXACT).trace(clf, start=start, toward=start)
    assert (found.result.distance == 0).all()
    assert not found.visits.solved.any()
    assert (found.final_region("last full") == 0).all()
    assert (found.final_region("least feature distance") == 0).all()


# -- the final region ------------------------------------------------------------------------------


def test_rules_for_the_final_region():
    clf, start, toward = _pairs("resnet", count=3)
    attack = LinearRegionInversion(solver=QUICK, regions=7, final_steps=0, tolerance=1e-7)
    for rule in ("last accepted", "least feature distance", "last full"):
        found = replace(attack, pick=rule).trace(clf, start=start, toward=toward)
        visits = found.visits
        for lane in range(len(start)):
            if rule == "least feature distance":
                errors = [v if v == v else np.inf for v in visits.feature_mse[:, lane].tolist()]
                expected = int(np.argmin(errors)) + 1
            else:
                marks = visits.accepted if rule == "last accepted" else visits.full
                expected = max((r + 1 for r in range(7) if marks[r, lane]), default=0)
            region = int(found.final_region(rule)[lane])
            assert region == expected
            if region:
                assert found.final_mse[lane] == visits.feature_mse[region - 1, lane]
                assert found.final_distance[lane] == visits.distance[region - 1, lane]


@pytest.mark.parametrize("known", [True, False])
def test_until_a_proposal_is_accepted_the_region_of_the_least_feature_distance_is_picked(known):
    """As seen with a solver that is stopped far too early."""
    clf, start, toward = _pairs("mlp")
    attack = LinearRegionInversion(
        solver=replace(QUICK, steps=2), regions=4, tolerance=1e-25, final_steps=0
    )
    asked = {"start": start} if known else {"target": clf.logits(start)}
    trace = attack.trace(clf, toward=toward, **asked)
    assert not trace.visits.accepted.any()
    least = trace.visits.feature_mse.nan_to_num(torch.inf).amin(dim=0)
    assert torch.equal(trace.final_mse, least)
    assert torch.equal(
        trace.final_region("last accepted"), trace.final_region("least feature distance")
    )
    torch.testing.assert_close(L2.length(trace.final - toward), trace.final_distance)


def test_a_walk_leaves_a_place_where_the_features_are_constant():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)).double()
    net[0].bias.data = -net[0].weight.data.clamp(min=0).sum(dim=1) * 0.15
    net[0].weight.data.abs_()
    clf = Classifier(net)
    toward = torch.zeros(4, 3, dtype=torch.float64)
    start = torch.rand(4, 3, dtype=torch.float64) / 2 + 0.5
    trace = LinearRegionInversion(solver=EXACT, regions=40).trace(clf, start=start, toward=toward)
    assert (trace.visits.solved.sum(dim=0) > 1).all()


@pytest.mark.parametrize("pick", ["last accepted", "least feature distance", "last full"])
def test_solving_the_final_region_again_never_worsens(pick):
    clf, start, toward = _pairs("resnet")
    attack = LinearRegionInversion(
        solver=QUICK, regions=5, final_steps=0, tolerance=1e-8, pick=pick
    )
    target = clf.logits(start)
    before = attack.trace(clf, target=target, toward=toward)
    after = replace(attack, final_steps=300).trace(clf, target=target, toward=toward)
    for name, value in vars(before.visits).items():  # the walk is the same
        assert torch.allclose(getattr(after.visits, name), value, equal_nan=True)
    assert (after.final_mse <= before.final_mse * 1.01).all()
    assert (after.final_mse < 0.5 * before.final_mse).any()
    assert before.result.success.any()
    assert (before.result.success <= after.result.success).all()
    assert (after.result.distance <= before.result.distance).all()
    missed = ~after.result.success
    assert (after.result.feature_mse <= before.result.feature_mse)[missed].all()


# -- batches ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "solver"), [(1, EXACT), (9, EXACT), (4, EXACT), (9, QUICK)], ids=str
)
def test_results_belong_to_the_sample(number, solver):
    clf, start, toward = _pairs("1d", count=5, seed=4)
    attack = LinearRegionInversion.variant(
        number,
        solver=solver,
        regions=4,
        final_steps=20,
        tolerance=1e-8 if solver is EXACT else 1e-7,
    )
    together = attack(clf, start=start, toward=toward)
    apart = replace(attack, batch=2)(clf, start=start, toward=toward)
    one = attack(clf, start=start[3:4], toward=toward[3:4], indices=[3])
    assert torch.allclose(apart.distance, together.distance, rtol=1e-6)
    assert torch.allclose(apart.example, together.example, atol=1e-6)
    assert torch.allclose(one.distance, together.distance[3:4], rtol=1e-6)


def test_passes_are_counted():
    clf, start, toward = _pairs("mlp", count=2)
    attack = LinearRegionInversion(solver=QUICK, regions=1, final_steps=0)
    cost = attack(clf, start=start, toward=toward).cost
    # A JVP and a VJP a step and a power iteration; the VJPs of rows besides.
    steps = 2 * (QUICK.steps + QUICK.power_iterations)
    assert cost.jvp == steps
    sampled = 2 * (2 * 3 + 2 * QUICK.sampled_rows)
    assert steps < cost.vjp <= steps + sampled


def test_visits_join():
    first, second = (Visit.none(torch.full((n,), 1.0)) for n in (2, 3))
    rounds = Visit.stacked([first, first])
    assert rounds.solved.shape == (2, 2)
    both = Visit.joined([rounds, Visit.stacked([second, second])])
    assert both.threshold.shape == (2, 5)
