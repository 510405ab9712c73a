"""The null space step: no logit moves, no unit changes sign, and no nearer step exists."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import null_space
from torch import nn

from elbowroom import L2, Classifier
from elbowroom.invariance.null_space_step import NullSpaceStep, TwoLayer, _onto_null_space

THRESHOLDS = ("exact", "worst-case", "per-unit worst-case")


def two_layers(hidden: int = 20, *, bias: float = 1.0, dtype=torch.float64, seed: int = 0, **kw):
    """A classifier on images of 6x6 pixels, five classes, and four pairs of images."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, hidden), nn.ReLU(), nn.Linear(hidden, 5))
    with torch.no_grad():
        model[1].bias.mul_(bias)
    start, toward = torch.rand(2, 4, 1, 6, 6, dtype=torch.float64).to(dtype)
    return Classifier(model.to(dtype), **kw), start, toward


def weights(clf: Classifier) -> TwoLayer:
    return TwoLayer.of(clf.graph((1, 6, 6)))


def unchanged(clf, start, result):
    """Whatever the threshold, the logits are those of the start, in the classifier itself."""
    assert result.logit_change.max() <= 1e-10
    assert (result.flipped == 0).all()
    exact = Classifier(clf.network, bounds=(-1e9, 1e9), dtype=torch.float64)
    torch.testing.assert_close(
        exact.logits(result.example), exact.logits(start.double()), rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize("hidden", [3, 20, 60])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_logit_moves_and_no_unit_changes_sign(threshold, hidden, dtype):
    clf, start, toward = two_layers(hidden, dtype=dtype)
    result = NullSpaceStep(threshold=threshold)(clf, start=start, toward=toward)
    unchanged(clf, start, result)
    assert result.example.dtype == torch.float64
    torch.testing.assert_close(result.distance, L2.length(result.example - toward))
    torch.testing.assert_close(result.distance_start, L2.length(start.double() - toward.double()))
    assert (result.distance <= result.distance_start).all()
    net = weights(clf)
    before, after = (x.double().flatten(1) @ net.W1.T + net.b1 for x in (start, result.example))
    assert ((before > 0) == (after > 0)).all()
    assert (((before - after).abs() < 1e-12).sum(dim=1) >= result.held).all()
    inside = (start + (result.example - start)).clamp(0, 1)
    excess = (result.example - inside).abs().flatten(1).amax(dim=1)
    torch.testing.assert_close(result.outside, excess)


def test_where_no_unit_is_near_zero_the_step_is_the_projection_off_the_logits_rows():
    clf, start, toward = two_layers(bias=1000.0)
    for threshold in THRESHOLDS:
        result = NullSpaceStep(threshold=threshold)(clf, start=start, toward=toward)
        assert (result.held == 0).all()
        assert (result.dimension == 36 - 5).all()
        for n in range(4):
            x = start[n : n + 1].clone().requires_grad_()
            jacobian = torch.stack([
                torch.autograd.grad(logit, x, retain_graph=True)[0].flatten()
                for logit in clf.network(x)[0]
            ])  # fmt: skip
            basis = torch.from_numpy(null_space(jacobian.detach().numpy()))
            wish = (toward[n] - start[n]).flatten()
            step = (result.example[n] - start[n]).flatten()
            torch.testing.assert_close(step, basis @ (basis.T @ wish))


@given(st.integers(0, 10_000), st.integers(0, 14), st.booleans())
def test_projection_against_an_independent_null_space(seed, count, degenerate):
    generator = torch.Generator().manual_seed(seed)
    W1 = torch.randn(14, 9, generator=generator, dtype=torch.float64)
    if degenerate:
        W1[1] = 3 * W1[0]
        W1[2] = 0
    held = torch.zeros(3, 14, dtype=torch.bool)
    for n, number in enumerate((count, count // 2, 0)):
        held[n, torch.randperm(14, generator=generator)[:number]] = True
    wish = torch.randn(3, 9, generator=generator, dtype=torch.float64)
    logit_rows = torch.randn(3, 2, 9, generator=generator, dtype=torch.float64)
    step, dimension = _onto_null_space(wish, W1, held, logit_rows)
    for n in range(3):
        rows = torch.cat([W1[held[n]], logit_rows[n]]).numpy()
        basis = null_space(rows, rcond=1e-11)
        assert int(dimension[n]) == basis.shape[1]
        expected = basis @ (basis.T @ wish[n].numpy())
        np.testing.assert_allclose(step[n].numpy(), expected, atol=1e-9)
        if basis.shape[1] == 0:
            assert (step[n] == 0).all()


@given(st.integers(0, 10_000), st.sampled_from([0.3, 1.0]))
def test_worst_cases_hold_every_unit_that_could_change_sign(seed, reach):
    clf, start, toward = two_layers(12, bias=4.0, seed=seed)
    net = weights(clf)
    values = start.flatten(1) @ net.W1.T + net.b1
    found = {
        name: NullSpaceStep(threshold=name, reach=reach)(clf, start=start, toward=toward)
        for name in THRESHOLDS
    }
    for result in found.values():
        unchanged(clf, start, result)
    step = {name: (result.example - start).flatten(1) for name, result in found.items()}
    # The corrected bounds: what is not held is farther from zero than any such step moves it.
    name = "per-unit worst-case"
    free = values.abs() > L2.length(net.W1) * reach * found[name].distance_start[:, None]
    assert torch.equal((~free).sum(dim=1), found[name].held)
    assert (((step[name] @ net.W1.T).abs() < values.abs()) | ~free).all()
    name = "worst-case"
    free = values.abs() > net.W1.abs().max() * step[name].abs().sum(dim=1, keepdim=True)
    assert ((~free).sum(dim=1) <= found[name].held).all()
    assert (found["exact"].held <= found["per-unit worst-case"].held).all()
    assert (found["exact"].dimension >= found["per-unit worst-case"].dimension).all()
    assert (found["exact"].distance <= found["per-unit worst-case"].distance + 1e-12).all()


def test_the_maximum_norm_is_what_the_bound_holds_for():
    # All weights are w = 1: |W r|_1 = 20 |r|_1, against the w |r|_1 of the paper.
    W, r = torch.ones(20, 4), torch.ones(4)
    assert (W @ r).abs().sum() > r.abs().sum()
    assert (W @ r).abs().max() <= r.abs().sum()


def test_a_trivial_null_space_is_told():
    clf, start, toward = two_layers(60)
    result = NullSpaceStep(threshold="worst-case")(clf, start=start, toward=toward)
    assert (result.dimension == 0).all()
    assert torch.equal(result.example, start)
    assert torch.equal(result.distance, result.distance_start)
    assert (result.held == 60).all()
    near = NullSpaceStep(threshold="per-unit worst-case", reach=0.005)(
        clf, start=start, toward=toward
    )
    assert (near.dimension > 0).all()
    assert (near.distance < near.distance_start).all()


def test_samples_do_not_depend_on_each_other():
    clf, start, toward = two_layers(40)
    for threshold in THRESHOLDS:
        step = NullSpaceStep(threshold=threshold)
        together = step(clf, start=start, toward=toward)
        for n in range(4):
            alone = step(clf, start=start[n : n + 1], toward=toward[n : n + 1])
            torch.testing.assert_close(alone.example[0], together.example[n], rtol=0, atol=1e-10)
            assert alone.held[0] == together.held[n]
            assert alone.dimension[0] == together.dimension[n]


def test_normalisation_becomes_part_of_the_first_layer():
    clf, start, toward = two_layers(mean=0.4, std=0.3)
    net = weights(clf)
    hidden = (start.flatten(1) @ net.W1.T + net.b1).relu()
    torch.testing.assert_close(hidden @ net.W2.T + net.b2, clf.logits(start))
    unchanged(clf, start, NullSpaceStep()(clf, start=start, toward=toward))


@pytest.mark.parametrize(
    ("layers", "named"),
    [
        ([nn.Flatten(), nn.Linear(36, 5)], "'1' (Linear)"),
        ([nn.Flatten(), nn.Linear(36, 8), nn.Tanh(), nn.Linear(8, 5)], "'2' (tanh)"),
        ([nn.Flatten(), nn.Linear(36, 8), nn.LeakyReLU(), nn.Linear(8, 5)], "'2' (leaky"),
        ([nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5)], "'0' (Conv)"),
        (
            [nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU()],
            "'4' (relu",
        ),
    ],
)
def test_other_networks_are_refused_by_name(layers, named):
    x = torch.rand(2, 1, 6, 6)
    with pytest.raises(ValueError, match="linear - ReLU - linear") as refused:
        NullSpaceStep()(Classifier(nn.Sequential(*layers)), start=x, toward=x)
    assert named in str(refused.value)


def test_mistakes_are_named():
    clf, start, toward = two_layers()
    with pytest.raises(ValueError, match="must have one shape"):
        NullSpaceStep()(clf, start=start, toward=toward[:1])
    with pytest.raises(ValueError, match="threshold must be"):
        NullSpaceStep(threshold="none")
    with pytest.raises(ValueError, match="reach must lie"):
        NullSpaceStep(reach=1.5)
