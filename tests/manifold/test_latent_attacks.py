"""Attacks on latent codes: closed forms, bounds that hold, and the definition of an example."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from elbowroom import L1, L2, Classifier, Linf, models
from elbowroom.manifold import (
    LATENT_ATTACKS,
    ByClass,
    Codes,
    Fonts,
    Generator,
    LatentCarliniWagner,
    LatentPGD,
    RandomCodes,
    Transformations,
    is_adversarial,
)


def linear_problem(seed, count=6):
    """A linear classifier of two classes behind a linear decoder, and the exact distances."""
    torch.manual_seed(seed)
    decoder = Generator(nn.Linear(3, 8).double(), 3)
    clf = Classifier(nn.Linear(8, 2).double(), bounds=(-math.inf, math.inf))
    codes = Codes(torch.randn(count, 3, dtype=torch.float64), torch.zeros(count, 0))
    logits = clf.logits(decoder.samples(codes))
    y = logits.argmax(dim=1)
    gap = logits.gather(1, y[:, None])[:, 0] - logits.gather(1, 1 - y[:, None])[:, 0]
    row = clf.network.weight[y] - clf.network.weight[1 - y]
    slope = (row @ decoder.network.weight).detach()
    return decoder, clf, codes, y, gap, slope


@given(seed=st.integers(0, 10**6), norm=st.sampled_from([L2, Linf]))
@settings(max_examples=15)
def test_success_in_the_ball_and_only_there(seed, norm):
    decoder, clf, codes, y, gap, slope = linear_problem(seed)
    exact = gap / norm.dual.length(slope)
    eta = float(exact.median())
    attack = LatentPGD(norm=norm, eta=eta, steps=200, learning_rate=0.03 * eta, restarts=2)
    found = attack(clf, decoder, codes, y)
    assert not bool((found.success & (exact > eta * (1 + 1e-9))).any())
    assert bool(found.success[exact < 0.8 * eta].all())
    assert bool((found.latent_distance[found.success] <= eta * (1 + 1e-9)).all())
    torch.testing.assert_close(found.adversarial, decoder.samples(found.codes))
    assert bool((clf.logits(found.adversarial).argmax(dim=1) != y)[found.success].all())


def test_the_minimal_norm_attack_ends_beyond_the_boundary_by_its_confidence():
    decoder, clf, codes, y, gap, slope = linear_problem(5)
    exact = gap / L2.length(slope)
    attack = LatentCarliniWagner(steps=2000, learning_rate=0.01, confidence=0.0, weight=1e-3)
    found = attack(clf, decoder, codes, y)
    assert bool(found.success.all())
    assert bool((found.latent_distance >= exact).all())
    torch.testing.assert_close(found.latent_distance, exact, rtol=0.05, atol=0.02)


def test_samples_that_are_wrong_already_are_not_attacked():
    decoder, clf, codes, y, _, _ = linear_problem(1)
    y = y.clone()
    y[2] = 1 - y[2]
    found = LatentPGD(eta=1e-6)(clf, decoder, codes, y)
    assert found.correct.tolist() == [row != 2 for row in range(len(y))]
    assert torch.equal(found.codes.z, codes.z)
    assert float(found.latent_distance[2]) == 0.0
    assert bool(found.latent_distance[0].isinf())


def test_the_context_goes_with_its_sample():
    """Restarts attack some of the samples only: each still behind the decoder of its class."""

    class Shift(nn.Module):
        def __init__(self, by):
            super().__init__()
            self.by = by

        def forward(self, z):
            return torch.cat([z + self.by, torch.zeros_like(z)], dim=1)

    decoder = ByClass({0: Generator(Shift(2.0), 1), 1: Generator(Shift(-0.2), 1)})
    clf = Classifier(nn.Identity(), bounds=(-9.0, 9.0))
    y = torch.tensor([0, 1, 0, 1])
    found = LatentPGD(eta=0.3, restarts=3, learning_rate=0.02)(
        clf, decoder, Codes(torch.zeros(4, 1), y), y
    )
    assert found.success.tolist() == [False, True, False, True]


@pytest.mark.parametrize("name", list(LATENT_ATTACKS))
def test_fonts_in_bounds_and_reproducible(name):
    decoder = Fonts()
    codes, clf = decoder.codes(24), models.pretrained("fonts-plain")
    y = codes.context[:, 1]
    attack = LATENT_ATTACKS[name](seed=3)
    found, again = (attack(clf, decoder, codes, y) for _ in range(2))
    assert torch.equal(found.codes.z, again.codes.z)
    assert bool(((found.codes.z >= decoder.lower) & (found.codes.z <= decoder.upper)).all())
    assert torch.equal(found.adversarial, decoder.samples(found.codes))
    assert found.cost.forward > 0
    decisions = Classifier(clf).logits(found.adversarial).argmax(dim=1)
    assert torch.equal(decisions != y, found.success)
    assert torch.equal(found.codes.context, codes.context)


def test_search_beats_chance():
    decoder = Transformations()
    letters = Fonts().codes(40)
    codes = decoder.encode(Fonts().samples(letters), torch.zeros(40))
    y = letters.context[:, 1]
    clf = models.pretrained("fonts-plain")
    searched = LatentPGD(eta=0.2)(clf, decoder, codes, y)
    chance = RandomCodes(eta=0.2, restarts=5)(clf, decoder, codes, y)
    assert int(searched.success.sum()) > int(chance.success.sum())


def test_bad_settings():
    with pytest.raises(ValueError, match="works in L2 and Linf"):
        LatentPGD(norm=L1)
    with pytest.raises(ValueError, match="works in L2"):
        LatentCarliniWagner(norm=Linf)
    with pytest.raises(ValueError, match="eta"):
        LatentPGD(eta=0.0)
    with pytest.raises(ValueError, match="steps"):
        LatentPGD(steps=0)
    decoder, clf, codes, y, _, _ = linear_problem(0)
    with pytest.raises(ValueError, match="6 codes, 5 labels"):
        LatentPGD()(clf, decoder, codes, y[:5])


class TestDefinition:
    """The toy data of section I."""

    def test_point_masses(self):
        """Eq. 23 to 25: moving x = 0 by epsilon reaches the other class, no adversarial example."""
        posterior = torch.tensor([[0.0, 1.0]])  # of x = epsilon
        assert not bool(is_adversarial(torch.tensor([1]), torch.tensor([0]), posterior))
        # Whereas a classifier that is wrong at x = 0 has one there.
        assert bool(
            is_adversarial(torch.tensor([1]), torch.tensor([0]), torch.tensor([[1.0, 0.0]]))
        )

    @given(p=st.floats(0.51, 0.99), eta=st.floats(0.1, 3.0))
    def test_a_feature_and_a_gaussian(self, p, eta):
        """Eq. 26 and 27: x_1 = -1, x_2 = eta moved to -eta is no adversarial example of y = 1."""

        def posterior(x1, x2):
            joint = [
                (p if x1 == y else 1 - p) * math.exp(-((x2 - y * eta) ** 2) / 2) for y in (-1, 1)
            ]
            return torch.tensor([joint]) / sum(joint)

        wrong, label = torch.tensor([0]), torch.tensor([1])
        assert not bool(is_adversarial(wrong, label, posterior(-1, -eta)))
        # Back at x_2 = eta it is one, if the Gaussian says more than the feature does.
        says_more = 2 * eta**2 > math.log(p / (1 - p))
        assert bool(is_adversarial(wrong, label, posterior(-1, eta))) == says_more

    def test_ties_and_right_decisions_are_none(self):
        tie = torch.tensor([[0.5, 0.5]])
        assert not bool(is_adversarial(torch.tensor([1]), torch.tensor([0]), tie))
        sure = torch.tensor([[0.9, 0.1]])
        assert not bool(is_adversarial(torch.tensor([0]), torch.tensor([0]), sure))
