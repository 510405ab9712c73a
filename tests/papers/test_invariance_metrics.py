"""Figures of the Invariance thesis, chapter 2, on small sets and on MNIST."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from elbowroom import L2, Classifier, Linf, data, models
from elbowroom.papers.invariance_metrics import TABLE_2_1, figure_2_2, figure_2_6, figure_2_7
from elbowroom.perception import SSIM, Lp


def problem():
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(12) % 3
    x = torch.rand(12, 1, 12, 12, generator=generator)
    x[:, 0, :4] = (x[:, 0, :4] + y[:, None, None]) / 3
    return x, y


def test_figure_2_2_compares_the_input_with_the_representation():
    x, y = problem()
    torch.manual_seed(0)
    body = nn.Sequential(nn.Flatten(), nn.Linear(144, 8), nn.ReLU())
    found = figure_2_2(Classifier(nn.Sequential(body, nn.Linear(8, 3))), x, y, bins=10)
    assert list(found) == ["input", "representation"]
    with torch.no_grad():
        inside = {"input": x.flatten(1), "representation": body(x)}
    for where, spread in found.items():
        values = inside[where].double()
        pairs = list(itertools.combinations(range(12), 2))
        d = {pair: float((values[pair[0]] - values[pair[1]]).norm()) for pair in pairs}
        intra = [d[i, j] for i, j in pairs if y[i] == y[j]]
        inter = [d[i, j] for i, j in pairs if y[i] != y[j]]
        assert spread.mean_intra == pytest.approx(sum(intra) / len(intra))
        assert spread.mean_inter == pytest.approx(sum(inter) / len(inter))
        wins = [a < b for a, b in itertools.product(intra, inter)]
        assert spread.separation == pytest.approx(sum(wins) / len(wins))
        assert spread.histogram.inter.shape == (10,)


def test_figure_2_6_matches_noise_in_both_norms():
    x, _ = problem()
    perturbed = x.clone()
    perturbed[:, :, 3:9, 3:9] = 1 - perturbed[:, :, 3:9, 3:9]
    found = figure_2_6(x, perturbed, distances=(Lp(L2), Lp(Linf), SSIM()))
    for norm in (L2, Linf):
        size = norm.length(perturbed - x)
        noise = found.noise[str(norm)]
        assert noise.exact.all()
        torch.testing.assert_close(noise.distance, size, rtol=1e-5, atol=0)
        columns = found.distances[str(norm)]
        torch.testing.assert_close(columns["perturbed"], size, rtol=1e-5, atol=0)
        torch.testing.assert_close(columns[f"{norm} noise"], size, rtol=1e-5, atol=0)
    # The same Linf distance allows noise that is far larger in L2.
    assert (found.distances["L2"]["Linf noise"] > found.distances["L2"]["perturbed"]).all()
    assert set(found.distances["SSIM"]) == {"perturbed", "L2 noise", "Linf noise"}


def test_figure_2_7_counts_pairs_of_different_classes():
    x, y = problem()
    radii = {"L2": (3.0, 5.0), "L0": (144.0, 145.0)}
    curves = {curve.distance: curve for curve in figure_2_7(x, y, radii=radii, points=20)}
    assert list(curves) == ["L0", "L2", "Linf"]
    pairs = [(i, j) for i, j in itertools.combinations(range(12), 2) if y[i] != y[j]]
    lengths = torch.stack([(x[i] - x[j]).double().norm() for i, j in pairs])
    curve = curves["L2"]
    assert curve.pairs == len(pairs)
    assert curve.smallest == pytest.approx(float(lengths.min()))
    assert float(curve.eps[-1]) == pytest.approx(float(lengths.max()))
    middle = curve.eps[1:-1]
    assert curve.count[1:-1].tolist() == [int((lengths < e).sum()) for e in middle]
    assert curve.at == {eps: int((lengths < eps).sum()) for eps in radii["L2"]}
    assert curves["Linf"].at == {}
    assert curves["L0"].at[145.0] == len(pairs)


def test_on_mnist_no_pair_is_as_close_as_the_radii_in_use(real_data):
    digits = data.load("mnist", "test", 500)
    radii = {name: table["mnist"] for name, table in TABLE_2_1.items()}
    curves = {c.distance: c for c in figure_2_7(digits.x, digits.y, radii=radii)}
    assert [sum(curve.at.values()) for curve in curves.values()] == [0, 0, 0]
    assert curves["L2"].smallest > 2
    # "almost always at the maximum 1" (2.3.3)
    assert float(curves["Linf"].eps[-1]) == 1
    assert int(curves["Linf"].count[-2]) < 0.5 * curves["Linf"].pairs


def test_a_trained_network_separates_classes_that_the_input_does_not():
    letters = data.load("fonts", "test", 150)
    found = figure_2_2(Classifier(models.load("fonts-plain")), letters.x, letters.y)
    assert found["representation"].separation > found["input"].separation + 0.2
    assert found["representation"].histogram.overlap < found["input"].histogram.overlap - 0.2
