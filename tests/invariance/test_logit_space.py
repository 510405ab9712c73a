"""The logit space attack: its objective, its signs, and what it finds where that is known."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from elbowroom import L2, Classifier
from elbowroom.invariance.confidence import confidence
from elbowroom.invariance.logit_space import LogitSpaceAttack, sweep, total_variation
from elbowroom.invariance.nspgd import NSPGD
from nets import make


def images(count: int = 4, dtype=torch.float64, name: str = "mlp"):
    model, shape = make(name, seed=1)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(count, *shape, generator=generator, dtype=torch.float64)
    return Classifier(model, dtype=dtype), x.to(dtype)


class Brightness(nn.Module):
    """Logits with a part that all share, the sum of the last row: softmax does not see it."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        weight = 0.3 * torch.randn(3, 5 * 6, generator=generator, dtype=torch.float64)
        self.register_buffer("weight", weight)

    def forward(self, x):
        return x[..., :5, :].flatten(1) @ self.weight.T + x[..., 5, :].sum(dim=(1, 2))[:, None]


def brightness(count: int = 4):
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(count, 1, 6, 6, generator=generator, dtype=torch.float64)
    return Classifier(Brightness()), 0.3 + 0.4 * x


def by_loops(image):
    total = 0.0
    for channel in image:
        for i in range(channel.shape[0]):
            for j in range(channel.shape[1]):
                total += abs(channel[i, j] - channel[i - 1, j]) if i else 0
                total += abs(channel[i, j] - channel[i, j - 1]) if j else 0
    return float(total)


def test_total_variation_by_loops():
    x = torch.randn(3, 2, 4, 5, generator=torch.Generator().manual_seed(0))
    expected = torch.tensor([by_loops(image.double()) for image in x], dtype=torch.float64)
    torch.testing.assert_close(total_variation(x), expected)
    torch.testing.assert_close(
        total_variation(x[:, 0]), total_variation(x[:, :1]), rtol=0, atol=1e-12
    )
    with pytest.raises(ValueError, match="needs images"):
        total_variation(x[:, 0, 0])


@pytest.mark.parametrize("h", [-2.0, 0.0, lambda x: x.flatten(1).square().sum(dim=1)])
def test_the_objective_is_the_corrected_one_and_its_gradient_that_of_differences(h):
    clf, start = images()
    x = (start.flip(0) * 0.9).clone()
    wanted = clf.logits(start)
    attack = LogitSpaceAttack(h=h, lambda_=30.0, smoothness=0.2)
    value, gradient = attack.objective(clf, x, start, wanted)

    def by_hand(x):
        logits = clf.logits(x)
        shift = h(x) if callable(h) else torch.full((len(x),), h, dtype=x.dtype)
        change = ((logits + shift[:, None] - wanted) ** 2).sum(dim=1)
        softmax = ((logits.softmax(1) - wanted.softmax(1)) ** 2).sum(dim=1)
        return change - 30.0 * softmax - 0.2 * total_variation(x - start)

    torch.testing.assert_close(value, by_hand(x))
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=x.dtype)
    eps = 1e-6
    slope = (by_hand(x + eps * direction) - by_hand(x - eps * direction)) / (2 * eps)
    torch.testing.assert_close(
        (gradient * direction).flatten(1).sum(dim=1), slope, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(("h", "side"), [(1.0, 1), (-1.0, -1)])
def test_from_the_source_all_logits_go_to_the_side_of_the_shift(h, side):
    clf, start = brightness()
    attack = LogitSpaceAttack(h=h, radius=0.0, steps=200, step=0.005, smoothness=0.0)
    result = attack(clf, start=start)
    moved = clf.logits(result.example) - clf.logits(start)
    assert (side * moved > 0).all()
    # Nothing but the softmax keeps pixels from the bounds, and it does not see the last row.
    assert (result.example[:, 0, 5] == (side > 0)).all()
    assert result.softmax_mse.max() < 1e-4
    assert result.logit_mse.min() > 1
    torch.testing.assert_close(result.logit_mse, moved.square().mean(dim=1))


def test_the_probabilities_count_as_lambda_says():
    clf, start = images()
    free = LogitSpaceAttack(lambda_=0.0, smoothness=0.0, steps=60)(clf, start=start)
    bound = LogitSpaceAttack(lambda_=1e5, smoothness=0.0, steps=60)(clf, start=start)
    assert (bound.softmax_mse < free.softmax_mse / 3).all()
    assert (free.logit_mse > bound.logit_mse).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["mlp", "resnet"])
def test_the_result_is_what_it_says(name, dtype):
    clf, start = images(dtype=dtype, name=name)
    result = LogitSpaceAttack(steps=20)(clf, start=start)
    assert ((result.example >= 0) & (result.example <= 1)).all()
    y = clf.logits(start).argmax(dim=1)
    torch.testing.assert_close(result.confidence, confidence(clf.logits(result.example), y))
    torch.testing.assert_close(result.confidence_start, confidence(clf.logits(start), y))
    move = result.example.double() - start.double()
    torch.testing.assert_close(result.distance, L2.length(move))
    torch.testing.assert_close(result.total_variation, total_variation(move))
    probabilities = [clf.logits(x).double().softmax(1) for x in (result.example, start)]
    torch.testing.assert_close(
        result.softmax_mse, (probabilities[0] - probabilities[1]).square().mean(dim=1)
    )


def test_more_steps_never_lower_the_objective():
    clf, start = images()
    wanted = clf.logits(start)
    values = []
    for steps in (1, 10, 40):
        attack = LogitSpaceAttack(steps=steps)
        found = attack(clf, start=start).example
        values.append(attack.objective(clf, found, start, wanted)[0])
    assert (values[1] >= values[0]).all()
    assert (values[2] >= values[1]).all()
    assert (values[2] > values[0]).all()


def test_samples_are_seeded_by_their_index():
    clf, start = images()
    attack = LogitSpaceAttack(steps=5)
    together = attack(clf, start=start, indices=[3, 1, 4, 5])
    for n, index in enumerate([3, 1, 4, 5]):
        alone = attack(clf, start=start[n : n + 1], indices=[index])
        torch.testing.assert_close(alone.example[0], together.example[n])
    other = LogitSpaceAttack(steps=5, seed=1)(clf, start=start, indices=[3, 1, 4, 5])
    assert not torch.equal(other.example, together.example)


def test_a_sweep_trades_smoothness_for_the_objective():
    clf, start = images()
    attack = LogitSpaceAttack(steps=80)
    rows = sweep(attack, clf, start=start, weights=(0.0, 0.003, 0.1))
    assert [row.smoothness for row in rows] == [0.0, 0.003, 0.1]
    rough = [row.total_variation for row in rows]
    assert rough[0] > rough[1] > rough[2]
    single = LogitSpaceAttack(steps=80, smoothness=0.003)(clf, start=start)
    assert rows[1].confidence == pytest.approx(float(single.confidence.mean()))
    assert rows[1].softmax_mse == pytest.approx(float(single.softmax_mse.mean()))
    assert rows[1].distance == pytest.approx(float(single.distance.mean()))


def test_nspgd_sets_out_from_what_it_found():
    clf, start = brightness()
    toward = start.flip(0)
    begin = LogitSpaceAttack(steps=100, lambda_=1e4)(clf, start=start)
    assert ((begin.confidence - begin.confidence_start).abs() < 0.05).any()
    walk = NSPGD(steps=300, path_every=300)(clf, start=start, toward=toward, begin=begin.example)
    usable = begin.confidence > begin.confidence_start - 0.05
    chosen = torch.where(usable[:, None, None, None], begin.example, start)
    assert torch.equal(walk.path[0], chosen)
    assert (walk.confidence >= walk.confidence_start - 0.05).all()
    assert (walk.distance < L2.length(chosen - toward)).all()


def test_mistakes_are_named():
    clf, start = images()
    flat = Classifier(nn.Linear(6, 3))
    with pytest.raises(ValueError, match="use smoothness=0"):
        LogitSpaceAttack()(flat, start=torch.rand(2, 6))
    found = LogitSpaceAttack(smoothness=0.0, steps=3)(flat, start=torch.rand(2, 6))
    assert found.total_variation.isnan().all()
    with pytest.raises(ValueError, match=r"h must return shape \(4,\)"):
        LogitSpaceAttack(h=lambda x: x.sum())(clf, start=start)
    with pytest.raises(ValueError, match="1 indices for 4 samples"):
        LogitSpaceAttack()(clf, start=start, indices=[0])
    for options in ({"steps": -1}, {"step": 0.0}, {"lambda_": -1.0}, {"h": float("nan")}):
        with pytest.raises(ValueError, match="must be"):
            LogitSpaceAttack(**options)
