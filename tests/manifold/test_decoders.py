"""Decoders against closed forms, and what they refuse."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from elbowroom.data import fonts
from elbowroom.manifold import ByClass, Codes, Fonts, Generator, Transformations


def codes_of(z, context=None):
    z = torch.as_tensor(z, dtype=torch.float64)
    return Codes(z, torch.zeros(len(z), 0) if context is None else context)


def picture():
    return torch.rand(1, 1, 9, 9, generator=torch.Generator().manual_seed(0)).double()


def moved(**changes):
    z = dict(zip(fonts.PARAMETERS, (0.0, 0.0, 0.0, 0.0, 1.0, 0.0), strict=True)) | changes
    return torch.tensor([list(z.values())], dtype=torch.float64)


def test_the_code_of_an_image_decodes_to_it():
    decoder, x = Transformations(), picture()
    codes = decoder.encode(x, torch.zeros(1))
    torch.testing.assert_close(decoder.samples(codes), x)


def test_a_translation_by_pixels():
    x = picture()
    wide = Transformations(lower=(-1.0,) * 6, upper=(1.0,) * 6)
    found = wide.samples(Codes(moved(t1=2 * 2 / 8, t2=-2 / 8), x))
    expected = torch.zeros_like(x)
    expected[..., 1:, :-2] = x[..., :-1, 2:]
    torch.testing.assert_close(found, expected)


def test_a_quarter_turn():
    x = picture()
    found = Transformations().samples(Codes(moved(r=math.pi / 2), x))
    torch.testing.assert_close(found, torch.rot90(x, 1, (2, 3)))


def test_the_codes_of_fonts():
    data = fonts.generate("test", 30, seed=3)
    decoder = Fonts("test", seed=3)
    rows = torch.tensor([7, 2, 29])
    codes = decoder.encode(data.x[rows], data.y[rows])
    assert torch.equal(decoder.samples(codes), data.x[rows])
    assert torch.equal(codes.z, decoder.codes(30).z[rows])
    assert torch.equal(codes.context[:, 1], data.y[rows])


def test_fonts_knows_its_own_images_only():
    data, decoder = fonts.generate("test", 3), Fonts("test")
    with pytest.raises(ValueError, match="sample 1 is none of the images"):
        decoder.encode(torch.stack([data.x[0], data.x[1] / 2]), data.y[:2])
    with pytest.raises(ValueError, match="label of sample 0"):
        decoder.encode(data.x[:1], data.y[:1] + 1)


def test_codes_that_are_refused():
    decoder = Transformations()
    x = picture()
    with pytest.raises(ValueError, match=r"dimension 4 is out of its bounds \[0.75, 1.15\]"):
        decoder.samples(Codes(moved(s=2.0), x))
    with pytest.raises(ValueError, match="finite"):
        decoder.samples(Codes(moved(s=math.nan), x))
    with pytest.raises(ValueError, match="shape"):
        decoder.samples(Codes(torch.zeros(1, 5), x))
    with pytest.raises(ValueError, match="context of 2"):
        decoder.samples(Codes(moved(), x.repeat(2, 1, 1, 1)))
    with pytest.raises(ValueError, match="only images"):
        decoder.encode(torch.zeros(2, 5), torch.zeros(2))
    with pytest.raises(ValueError, match="must admit"):
        Transformations(lower=(0.1,) * 6)


def test_a_generator_without_an_encoder_seeks_codes():
    torch.manual_seed(0)
    network = nn.Linear(2, 6).double()
    decoder = Generator(network, 2)
    z = torch.tensor([[0.3, -0.2], [0.1, 0.4]], dtype=torch.float64)
    x = decoder.samples(codes_of(z))
    torch.testing.assert_close(decoder.encode(x, torch.zeros(2)).z, z, atol=1e-3, rtol=0)


def test_an_encoder_stays_in_the_bounds():
    decoder = Generator(nn.Identity(), 3, encoder=nn.Identity(), bound=2.0)
    x = torch.tensor([[5.0, 1.0, -3.0]])
    assert decoder.encode(x, torch.zeros(1)).z.tolist() == [[2.0, 1.0, -2.0]]


def test_every_class_has_its_decoder():
    class Times(nn.Module):
        def __init__(self, factor):
            super().__init__()
            self.factor = factor

        def forward(self, z):
            return self.factor * z

    decoder = ByClass({k: Generator(Times(k), 1, bound=2.0) for k in (1, 2, 3)})
    y = torch.tensor([3, 1, 3, 2])
    z = torch.tensor([[1.0], [1.0], [0.5], [-1.0]])
    assert decoder.samples(Codes(z, y)).flatten().tolist() == [3.0, 1.0, 1.5, -2.0]
    assert decoder.encode(torch.tensor([[3.0]]), torch.tensor([3])).z.item() == pytest.approx(
        1.0, abs=1e-2
    )
    with pytest.raises(ValueError, match="class 7 has no decoder; there are some for 1, 2, 3"):
        decoder.samples(Codes(z[:1], torch.tensor([7])))
    with pytest.raises(ValueError, match="same latent bounds"):
        ByClass({0: Generator(Times(1), 1), 1: Generator(Times(1), 1, bound=2.0)})
    with pytest.raises(ValueError, match="at least one class"):
        ByClass({})
