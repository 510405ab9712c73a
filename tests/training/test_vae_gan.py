"""VAE-GANs: losses against closed forms, training that resumes, files that are refused."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from elbowroom import data, models
from elbowroom.data import Dataset
from elbowroom.manifold.vae_gan import as_decoder, load_decoder, load_vae_gan, save_vae_gan
from elbowroom.models.vae_gan import VaeGan
from elbowroom.sampling import epoch_seed
from elbowroom.training.vae_gan import (
    VaeGanTraining,
    _fit_mixture,
    divergence,
    losses,
    train_vae_gan,
)

SMALL = VaeGanTraining(widths=(8, 8, 8), epochs=2, batch_size=20, size=3)


def letters(count=60, label=None):
    found = data.load("fonts", "train", count)
    if label is None:
        return found
    rows = found.y == label
    return replace(found, x=found.x[rows], y=found.y[rows])


@pytest.mark.parametrize(
    ("sides", "channels"), [((28, 28), 1), ((32, 32), 3), ((9, 9), 2), ((28, 24), 3), ((9, 14), 1)]
)
def test_shapes(sides, channels):
    model = VaeGan(shape=(channels, *sides), size=4, widths=(4, 6, 8))
    x = torch.rand(5, channels, *sides)
    mean, log_variance = model.encode(x)
    assert mean.shape == log_variance.shape == (5, 4)
    assert model(x).shape == x.shape
    assert model.discriminator(x).shape == (5,)
    every = {id(p) for part in model.parts().values() for p in part}
    assert every == {id(p) for p in model.parameters()}


def test_published_widths():
    model = VaeGan()
    kinds = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert {m.kernel_size for m in kinds} == {(4, 4)}
    assert [m.out_channels for m in kinds[:3]] == [64, 128, 256]
    order = [type(m) for m in model.encoder[:3]]
    assert order == [nn.Conv2d, nn.ReLU, nn.BatchNorm2d]


def test_the_divergence_of_normal_distributions():
    mean, log_variance = torch.randn(6, 4).double(), torch.randn(6, 4).double()
    own, prior = Normal(mean, (log_variance / 2).exp()), Normal(torch.zeros(4).double(), 1.0)
    torch.testing.assert_close(divergence(mean, log_variance), kl_divergence(own, prior).sum(dim=1))


def test_the_losses_of_the_paper():
    """Eq. 7 to 9, written out with sigmoids and logarithms."""
    torch.manual_seed(0)
    model = VaeGan(size=3, widths=(4, 4, 4)).double().eval()
    x, noise = torch.rand(7, 1, 28, 28).double(), torch.randn(7, 3).double()
    found = losses(model, x, noise, 2.5)
    mean, log_variance = model.encode(x)
    z = mean + noise * torch.sqrt(torch.exp(log_variance))
    rebuilt = model.decoder(z)
    distance = 2.5 * (x - rebuilt).abs().sum() / 7
    real, fake = (torch.sigmoid(model.discriminator(t)) for t in (x, rebuilt))
    torch.testing.assert_close(found.encoder, distance + divergence(mean, log_variance).mean())
    torch.testing.assert_close(found.decoder, distance - fake.log().mean())
    torch.testing.assert_close(found.discriminator, -real.log().mean() - (1 - fake).log().mean())


def test_the_loss_of_samples_of_the_prior():
    """Larsen et al. 2016: besides reconstructions the discriminator sees decoded noise."""
    torch.manual_seed(0)
    model = VaeGan(size=3, widths=(4, 4, 4)).double().eval()
    x, noise = torch.rand(7, 1, 28, 28).double(), torch.randn(7, 3).double()
    plain, with_samples = losses(model, x, noise, 2.5), losses(model, x, noise, 2.5, generated=4.0)
    told = torch.sigmoid(model.discriminator(model.decoder(noise)))
    assert torch.equal(with_samples.encoder, plain.encoder)
    torch.testing.assert_close(with_samples.decoder, plain.decoder - 4 * told.log().mean())
    mean, log_variance = model.encode(x)
    decoded = model.decoder(mean + noise * (log_variance / 2).exp())
    real, fooled = (torch.sigmoid(model.discriminator(images)) for images in (x, decoded))
    fakes = torch.cat([fooled, told])
    torch.testing.assert_close(
        with_samples.discriminator, -real.log().mean() - (1 - fakes).log().mean()
    )


def test_each_loss_moves_its_own_network(monkeypatch):
    """One step of plain descent in place of Adam: each network along its own loss alone."""
    images = letters(40)
    monkeypatch.setattr(torch.optim, "Adam", lambda p, lr, weight_decay: torch.optim.SGD(p, lr))
    settings = replace(SMALL, epochs=1, batch_size=40, learning_rate=1e-3)
    with torch.random.fork_rng([]):
        torch.manual_seed(settings.seed)
        model = VaeGan(size=3, widths=(8, 8, 8)).train()
    drawn = []
    original = torch.randn
    monkeypatch.setattr(
        torch, "randn", lambda *a, **k: drawn.append(original(*a, **k)) or drawn[-1]
    )
    moved = train_vae_gan(images, settings)
    order = torch.randperm(
        40, generator=torch.Generator().manual_seed(epoch_seed(settings.seed, 0))
    )
    found = losses(model, images.x[order], drawn[0], settings.reconstruction)
    each = (found.encoder, found.decoder, found.discriminator)
    for loss, before, after in zip(
        each, model.parts().values(), moved.parts().values(), strict=True
    ):
        for p, q, g in zip(
            before, after, torch.autograd.grad(loss, before, retain_graph=True), strict=True
        ):
            torch.testing.assert_close(q, p - 1e-3 * g, rtol=1e-4, atol=1e-6)


def test_learning_and_resuming(tmp_path):
    images = letters(80, label=2)
    images = replace(images, x=images.x.repeat(20, 1, 1, 1), y=images.y.repeat(20))
    whole, reports = tmp_path / "whole", []
    model = train_vae_gan(images, SMALL, folder=whole, progress=reports.append)
    assert [report.epoch for report in reports] == [1, 2]
    assert reports[-1].encoder < reports[0].encoder

    def stop(report):
        raise InterruptedError

    broken = tmp_path / "broken"
    with pytest.raises(InterruptedError):
        train_vae_gan(images, SMALL, folder=broken, progress=stop)
    with pytest.raises(FileNotFoundError, match="the command that was interrupted"):
        load_vae_gan(broken)
    resumed = train_vae_gan(images, SMALL, folder=broken)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    loaded = load_vae_gan(whole)
    some = images.x[:4]
    torch.testing.assert_close(loaded.decode(loaded.code(some)), model.decode(model.code(some)))
    # Codes are standardised, and what they decode to is not changed by it.
    codes = model.code(images.x).double()
    torch.testing.assert_close(codes.mean(dim=0), torch.zeros(3).double(), rtol=0, atol=1e-4)
    torch.testing.assert_close(torch.cov(codes.mT), torch.eye(3).double(), rtol=0, atol=1e-4)
    torch.testing.assert_close(model.decode(codes.float()), model(images.x), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="epochs was 2, is now 3"):
        train_vae_gan(images, replace(SMALL, epochs=3), folder=whole)


def test_random_codes_are_distributed_as_the_fitted_ones():
    """Of two groups of codes, a mixture draws both in their shares."""
    torch.manual_seed(0)
    model = VaeGan(size=2, widths=(4, 4, 4), components=5)
    generator = torch.Generator().manual_seed(0)
    prior = model.draw(20_000, generator)
    torch.testing.assert_close(torch.cov(prior.mT), torch.eye(2), rtol=0, atol=0.05)
    low, high = torch.randn(300, 2) * 0.1 - 2, torch.randn(900, 2) * 0.1 + 1
    _fit_mixture(model, torch.cat([low, high]), seed=0)
    assert float(model.shares.sum()) == pytest.approx(1)
    drawn = model.draw(20_000, generator)
    lower = drawn[:, 0] < -0.5
    assert float(lower.double().mean()) == pytest.approx(0.25, abs=0.02)
    torch.testing.assert_close(drawn[lower].mean(dim=0), low.mean(dim=0), rtol=0, atol=0.02)
    torch.testing.assert_close(drawn[~lower].std(dim=0), high.std(dim=0), rtol=0.15, atol=0)


def test_a_moving_decoder_moves_its_image(tmp_path):
    torch.manual_seed(0)
    model = VaeGan(size=3, widths=(4, 4, 4), moving=True).eval()
    inner = model.decoder.image
    z = torch.randn(2, 3)
    # Without any dependence on the code nothing moves.
    model.decoder.parameters_of.weight.data.zero_()
    torch.testing.assert_close(model.decoder(z), inner(z), rtol=0, atol=1e-5)
    # One pixel to the left, at 1 in the first dimension of the code.
    model.decoder.parameters_of.weight.data[0, 0] = 2 / 27
    z[:, 0] = 1.0
    torch.testing.assert_close(model.decoder(z)[..., :-1], inner(z)[..., 1:], rtol=0, atol=1e-5)
    save_vae_gan(model, tmp_path, {})
    torch.testing.assert_close(load_vae_gan(tmp_path).decoder(z), model.decoder(z))


def test_decoders_of_a_folder(tmp_path):
    for label in (0, 3):
        train_vae_gan(
            letters(60, label), replace(SMALL, epochs=1), folder=tmp_path / f"class-{label}"
        )
    decoder = load_decoder(tmp_path)
    images = letters(60)
    rows = (images.y == 0) | (images.y == 3)
    x, y = images.x[rows], images.y[rows]
    codes = decoder.encode(x, y)
    assert bool((codes.z.abs() <= 3).all())
    assert decoder.samples(codes).shape == x.shape
    assert as_decoder(load_vae_gan(tmp_path / "class-0")).size == 3
    with pytest.raises(ValueError, match="class 1 has no decoder"):
        decoder.encode(images.x, images.y)


def test_data_and_files_that_are_refused(tmp_path):
    images = letters(20)
    with pytest.raises(ValueError, match="for images"):
        train_vae_gan(
            Dataset("d", "s", torch.rand(4, 5), torch.arange(4), ("a",) * 4, (0.0, 1.0), "")
        )
    with pytest.raises(ValueError, match=r"values in \[0, 1\]"):
        train_vae_gan(replace(images, bounds=(-1.0, 1.0)))
    with pytest.raises(ValueError, match="codes of 10 dimensions need more"):
        train_vae_gan(replace(images, x=images.x[:1], y=images.y[:1]))
    with pytest.raises(ValueError, match="reconstruction must be positive"):
        VaeGanTraining(reconstruction=0)
    with pytest.raises(FloatingPointError, match="lower learning_rate"):
        train_vae_gan(images, replace(SMALL, learning_rate=1e20, epochs=3))
    with pytest.raises(FileNotFoundError, match="no trained VAE-GAN"):
        load_vae_gan(tmp_path / "nothing")
    models.save(models.build("mlp", sizes=[4, 2]), tmp_path / "other.safetensors", {})
    with pytest.raises(ValueError, match="no VAE-GAN"):
        load_vae_gan(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="sides must be at least 8"):
        VaeGan(shape=(1, 6, 28))


def test_softplus_is_the_logarithm_of_the_sigmoid():
    logits = torch.linspace(-5, 5, 11).double()
    torch.testing.assert_close(F.softplus(-logits), -torch.sigmoid(logits).log())
