"""LPIPS against a plain computation, with random and with the published heads."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from elbowroom.models import read_state
from elbowroom.perception import LPIPS
from elbowroom.perception.lpips import LAYERS, head_weights

CONVOLUTIONS = {
    0: (64, 3, 11),
    3: (192, 64, 5),
    6: (384, 192, 3),
    8: (256, 384, 3),
    10: (256, 256, 3),
}


def backbone():
    generator = torch.Generator().manual_seed(0)
    state = {"classifier.6.weight": torch.zeros(1000, 2)}
    for number, (out, into, size) in CONVOLUTIONS.items():
        shape = (out, into, size, size)
        weight = torch.randn(shape, generator=generator) / (into * size**2) ** 0.5
        state[f"features.{number}.weight"] = 2 * weight
        state[f"features.{number}.bias"] = 0.1 * torch.randn(out, generator=generator)
    return state


def random_heads():
    generator = torch.Generator().manual_seed(1)
    return {
        f"lin{i}.model.1.weight": torch.rand(1, channels, 1, 1, generator=generator)
        for i, channels in enumerate((64, 192, 384, 256, 256))
    }


def plain_lpips(state, heads, x, y):
    """What the LPIPS paper computes, written out; pixels in [0, 1]."""
    shift = torch.tensor([-0.030, -0.088, -0.188])[:, None, None]
    scale = torch.tensor([0.458, 0.448, 0.450])[:, None, None]

    def taps(z):
        z = ((2 * z - 1) - shift) / scale
        found = []
        for number in CONVOLUTIONS:
            if number in (3, 6):
                z = F.max_pool2d(z, 3, 2)
            stride, padding = {0: (4, 2), 3: (1, 2)}.get(number, (1, 1))
            weight, bias = state[f"features.{number}.weight"], state[f"features.{number}.bias"]
            z = F.relu(F.conv2d(z, weight, bias, stride, padding))
            found.append(z / (z.square().sum(dim=1, keepdim=True).sqrt() + 1e-10))
        return found

    total = torch.zeros(len(x))
    for i, (a, b) in enumerate(zip(taps(x), taps(y), strict=True)):
        total += F.conv2d((a - b).square(), heads[f"lin{i}.model.1.weight"]).mean(dim=(1, 2, 3))
    return total.double()


def images(size=36, channels=3):
    generator = torch.Generator().manual_seed(2)
    x = torch.rand(2, channels, size, size, generator=generator)
    y = (x + 0.1 * torch.randn(x.shape, generator=generator)).clamp(0, 1)
    return x, y


def test_random_weights():
    state, heads, (x, y) = backbone(), random_heads(), images()
    expected = plain_lpips(state, heads, x, y)
    found = LPIPS(state, heads)(x, y)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)
    scaled = LPIPS(state, heads, bounds=(-1.0, 1.0))(2 * x - 1, 2 * y - 1)
    torch.testing.assert_close(scaled, found, rtol=1e-4, atol=0)
    ones = {name: torch.ones_like(head) for name, head in heads.items()}
    torch.testing.assert_close(
        LPIPS(state)(x, y), plain_lpips(state, ones, x, y), rtol=1e-4, atol=0
    )


def test_grey_images_are_images_of_three_equal_channels():
    distance, (x, y) = LPIPS(backbone(), random_heads()), images(31, channels=1)
    colour = distance(x.repeat(1, 3, 1, 1), y.repeat(1, 3, 1, 1))
    torch.testing.assert_close(distance(x, y), colour)


@pytest.mark.parametrize("version", ["v0.0", "v0.1"])
def test_published_heads(real_data, version):
    file = real_data / "lpips-heads" / version / "alex.pth"
    if not file.is_file():
        pytest.skip(f"needs the linear heads of LPIPS at {file}")
    heads, state, (x, y) = read_state(file), backbone(), images()
    weights = head_weights(heads)
    assert [len(weights[layer]) for layer in LAYERS] == [64, 192, 384, 256, 256]
    torch.testing.assert_close(
        LPIPS(state, heads)(x, y), plain_lpips(state, heads, x, y), rtol=1e-4, atol=0
    )


def test_states_that_do_not_fit_are_refused():
    state, heads = backbone(), random_heads()
    with pytest.raises(ValueError, match=r"lin4.model.1.weight is missing"):
        LPIPS(state, {name: head for name, head in heads.items() if "lin4" not in name})
    state["features.3.bias"] = torch.zeros(7)
    with pytest.raises(
        ValueError, match=r"features.3.bias has shape \(7,\), it should have \(192,\)"
    ):
        LPIPS(state, heads)


def test_small_images_are_refused():
    with pytest.raises(ValueError, match=r"at least 31x31 pixels, got \(2, 3, 30, 30\); enlarge"):
        LPIPS(backbone())(*images(30))
