"""Success rates and their intervals."""

import math

import pytest
import torch

from elbowroom.manifold.rates import rate
from elbowroom.manifold.registry import DECODERS, decoder


def test_the_rate_of_the_rightly_classified():
    hit = torch.tensor([True, True, False, False])
    found = rate(hit, torch.tensor([True, False, True, True]))
    assert (found.hits, found.count) == (1, 3)
    assert found.value == pytest.approx(1 / 3)
    # Wilson 1927, by hand: (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n).
    z, p, n = 1.959964, 1 / 3, 3
    middle, spread = p + z**2 / 2 / n, z * math.sqrt(p * (1 - p) / n + (z / 2 / n) ** 2)
    assert found.lower == pytest.approx((middle - spread) / (1 + z**2 / n), rel=1e-5)
    assert found.upper == pytest.approx((middle + spread) / (1 + z**2 / n), rel=1e-5)


def test_the_rate_of_nothing():
    found = rate(torch.zeros(3, dtype=torch.bool), torch.zeros(3, dtype=torch.bool))
    assert found.count == 0
    assert math.isnan(found.value)


def test_decoders_by_name():
    assert {type(decoder(name)).__name__ for name in DECODERS} == {"Fonts", "Transformations"}
    assert decoder("fonts", "train").split == "train"
    assert decoder("elbowroom.manifold:Fonts", "test").split == "test"
    with pytest.raises(ValueError, match="unknown decoder 'vae'; choose fonts, transformations"):
        decoder("vae")
    with pytest.raises(ValueError, match="returned a dict, not a manifold"):
        decoder("builtins:dict", [])
