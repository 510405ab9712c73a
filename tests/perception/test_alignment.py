"""Alignment with labels against loops over pairs and triples."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from elbowroom import L1, L2
from elbowroom.perception import Lp, across, class_distances, recall, violated_triples


def problem(seed, count=9, classes=3, levels=4):
    """Few distinct values, so that there are ties; every class may be missing or alone."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(levels, (count, 1, 1, 2), generator=generator).float()
    y = torch.randint(classes, (count,), generator=generator)
    y[:3] = torch.tensor([0, 0, 1])  # so that there are triples
    return x, y


def loops(x, y):
    flat = x.flatten(1).double()
    d = [[float((a - b).abs().sum()) for b in flat] for a in flat]
    intra, inter = [], []
    for i, j in itertools.combinations(range(len(y)), 2):
        (intra if y[i] == y[j] else inter).append(d[i][j])
    triples = [
        (i, d[i][j], d[i][k])
        for i, j, k in itertools.permutations(range(len(y)), 3)
        if y[i] == y[j] != y[k]
    ]
    return sorted(intra), sorted(inter), triples


@settings(max_examples=50)
@given(st.integers(0, 10_000), st.integers(1, 12))
def test_pairs_and_triples_agree_with_loops(seed, chunk):
    x, y = problem(seed)
    intra, inter, triples = loops(x, y)
    found = class_distances(Lp(L1), x, y, chunk=chunk)
    assert found.intra.tolist() == intra
    assert found.inter.tolist() == inter
    wins = [(a < b) + 0.5 * (a == b) for a, b in itertools.product(intra, inter)]
    assert found.separation == pytest.approx(sum(wins) / len(wins))
    eps = torch.tensor([0.0, 1.0, 1.5, 3.0, 99.0])
    assert found.closer_than(eps).tolist() == [sum(d < e for d in inter) for e in eps.tolist()]

    tested = violated_triples(Lp(L1), x, y, chunk=chunk)
    assert tested.exact
    assert tested.compared == len(triples)
    assert tested.violated == pytest.approx(sum(a > b for _, a, b in triples) / len(triples))
    assert tested.tied == pytest.approx(sum(a == b for _, a, b in triples) / len(triples))
    for anchor, share in enumerate(tested.by_anchor.tolist()):
        own = [a > b for i, a, b in triples if i == anchor]
        assert math.isnan(share) if not own else share == pytest.approx(sum(own) / len(own))


@settings(max_examples=50)
@given(st.integers(0, 10_000))
def test_histograms_hold_every_pair(seed):
    x, y = problem(seed)
    found = class_distances(Lp(L1), x, y)
    histogram = found.histogram(bins=5)
    assert histogram.edges.shape == (6,)
    for density, values in ((histogram.intra, found.intra), (histogram.inter, found.inter)):
        width = histogram.edges.diff()
        assert float((density * width).sum()) == pytest.approx(1)
        counts = torch.histogram(values, histogram.edges).hist
        torch.testing.assert_close(density, counts / (len(values) * width))
    assert 0 <= histogram.overlap <= 1 + 1e-12


def test_overlap_of_equal_and_of_separate_distributions():
    x = torch.tensor([0.0, 0.1, 5.0, 5.1])[:, None]
    apart = class_distances(Lp(L2), x, torch.tensor([0, 0, 1, 1]))
    assert apart.histogram().overlap == 0
    assert apart.separation == 1
    assert violated_triples(Lp(L2), x, torch.tensor([0, 0, 1, 1])).violated == 0
    same = class_distances(Lp(L2), torch.eye(6), torch.tensor([0, 1, 2, 0, 1, 2]))
    assert same.histogram().overlap == pytest.approx(1)
    assert same.separation == 0.5


def test_sampled_triples_estimate_the_exact_share():
    generator = torch.Generator().manual_seed(0)
    # Classes of very different sizes, one image alone in its class: anchors weigh unequally.
    y = torch.tensor([0] * 20 + [1] * 8 + [2] * 3 + [3])
    x = torch.randn(len(y), 3, generator=generator) + 0.5 * y[:, None]
    exact = violated_triples(Lp(L2), x, y)
    sampled = violated_triples(Lp(L2), x, y, sampled=2000, seed=1)
    assert not sampled.exact
    assert sampled.compared == 31 * 2000
    assert sampled.violated == pytest.approx(exact.violated, abs=0.01)
    assert math.isnan(float(sampled.by_anchor[-1]))
    torch.testing.assert_close(
        sampled.by_anchor[:-1], exact.by_anchor[:-1], atol=5 * 0.5 / 2000**0.5, rtol=0
    )
    again = violated_triples(Lp(L2), x, y, sampled=2000, seed=1, chunk=5)
    assert torch.equal(again.by_anchor[:-1], sampled.by_anchor[:-1])
    other = violated_triples(Lp(L2), x, y, sampled=2000, seed=2)
    assert other.violated != sampled.violated


def test_every_triple_can_be_drawn_and_nothing_else():
    """On a line where each triple has its own pair of distances, count the pairs seen."""
    x = torch.tensor([0.0, 1.0, 3.0, 7.0, 12.0])[:, None]
    y = torch.tensor([1, 0, 1, 0, 1])
    seen = set()

    class Recorder(Lp):
        def pairs(self, a, b, rows, columns):
            seen.update(zip(rows.tolist(), columns.tolist(), strict=True))
            return super().pairs(a, b, rows, columns)

    violated_triples(Recorder(L2), x, y, sampled=200)
    assert seen == set(itertools.permutations(range(5), 2))


@given(st.integers(0, 10_000), st.integers(1, 9))
def test_recall_agrees_with_a_loop(seed, chunk):
    left, _ = problem(seed, count=7)
    right, _ = problem(seed + 1, count=7)
    found = recall(Lp(L1), left, right, chunk=chunk)
    d = (left.flatten(1)[:, None] - right.flatten(1)).abs().sum(dim=2)
    ranks = [sum(float(d[i, j]) <= float(d[i, i]) for j in range(7)) for i in range(7)]
    assert found.rank.tolist() == ranks
    for k in (1, 3, 7):
        assert found.at(k) == pytest.approx(sum(rank <= k for rank in ranks) / 7)


def test_a_constant_distance_recalls_nothing():
    same = torch.zeros(4, 2)
    assert recall(Lp(L2), same, same).at(3) == 0
    assert recall(Lp(L2), torch.eye(4), torch.eye(4)).at(1) == 1


def test_chunks_change_nothing():
    x = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    for norm in (L1, L2):
        whole = across(Lp(norm), x, x[:30])
        assert torch.equal(across(Lp(norm), x, x[:30], chunk=7), whole)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (torch.tensor([0, 1, 2]), "no two images are of one class"),
        (torch.tensor([0, 0, 0]), "no two images are of different classes"),
        (torch.tensor([0, 1]), "labels must be 3 integers"),
        (torch.tensor([0.0, 1.0, 1.0]), "labels must be 3 integers"),
    ],
)
def test_labels_that_do_not_fit_are_refused(y, message):
    with pytest.raises(ValueError, match=message):
        class_distances(Lp(L2), torch.rand(3, 2), y)


def test_sets_without_triples_and_bad_numbers_are_refused():
    x = torch.rand(3, 2)
    with pytest.raises(ValueError, match="no triples"):
        violated_triples(Lp(L2), x, torch.tensor([0, 1, 2]))
    with pytest.raises(ValueError, match="sampled must be at least 1"):
        violated_triples(Lp(L2), x, torch.tensor([0, 0, 1]), sampled=0)
    with pytest.raises(ValueError, match="chunk must be at least 1"):
        class_distances(Lp(L2), x, torch.tensor([0, 0, 1]), chunk=0)
    with pytest.raises(ValueError, match="in pairs, got 3 left and 2 right"):
        recall(Lp(L2), x, x[:2])
    with pytest.raises(ValueError, match="L2 gives NaN or infinite"):
        recall(Lp(L2), x, x * torch.inf)
