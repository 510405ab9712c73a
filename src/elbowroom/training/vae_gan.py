"""Training of VAE-GANs: the manifold of a class, or of all (Manifold, suppl. B.2)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor
from torch.nn import functional as F

from elbowroom import models
from elbowroom.data import Dataset
from elbowroom.hyperparameters import check_hyperparameters
from elbowroom.manifold.vae_gan import save_vae_gan
from elbowroom.models.vae_gan import WIDTHS, VaeGan
from elbowroom.sampling import epoch_seed
from elbowroom.training.checkpoint import FILE as CHECKPOINT_FILE
from elbowroom.training.checkpoint import Checkpoint, fingerprint

CODED = 1000  # images that are encoded at a time


@dataclass(frozen=True, kw_only=True)
class VaeGanTraining:
    """How to train; the defaults are the paper's for FONTS.

    reconstruction: lambda, the weight of the L1 distance, summed over the image, against the
                    divergence and the adversarial loss, which are sums as well. Of the paper: 3 on
                    FONTS and CelebA, 2.5 on EMNIST (2.75 for "0", 5.6 for "1", 2.25 for "8"), 2.75
                    on Fashion-MNIST.
    generated:      weight of the adversarial loss of samples of the prior, which Larsen et al. 2016
                    have besides that of reconstructions; 0 in the paper. On FONTS it did not help
                    (benchmarks/RESULTS.md).
    epochs:         10 on FONTS, 30 on EMNIST, 60 on Fashion-MNIST, 30 on CelebA.
    size:           of the latent code. widths: channels of the three convolutions.
    moving:         as of `VaeGan`: learns faster where images are turned and shifted, as in FONTS.
    """

    reconstruction: float = 3.0
    generated: float = 0.0
    size: int = 10
    widths: tuple[int, ...] = WIDTHS
    moving: bool = False
    epochs: int = 10
    batch_size: int = 100
    learning_rate: float = 0.005
    learning_rate_decay: float = 0.9
    weight_decay: float = 1e-4
    seed: int = 0

    def __post_init__(self) -> None:
        check_hyperparameters(self)
        for name in ("reconstruction", "size", "epochs", "batch_size", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not self.generated >= 0:
            raise ValueError(f"generated must not be negative, got {self.generated}")
        if not 0 < self.learning_rate_decay <= 1 or not self.weight_decay >= 0:
            raise ValueError(
                "learning_rate_decay must lie in (0, 1] and weight_decay must not be negative, "
                f"got {self.learning_rate_decay} and {self.weight_decay}"
            )


@dataclass(frozen=True)
class Losses:
    """Means over a batch, of eq. 7 to 9."""

    encoder: Tensor
    decoder: Tensor
    discriminator: Tensor


@dataclass(frozen=True)
class VaeGanReport:
    """What `progress` is told after each epoch, counted from 1; means over it."""

    epoch: int
    epochs: int
    encoder: float
    decoder: float
    discriminator: float
    seconds: float


def losses(
    model: VaeGan, x: Tensor, noise: Tensor, weight: float, *, generated: float = 0.0
) -> Losses:
    """Of the samples `x`, with one code each, drawn with `noise` `(N, size)` (eq. 7 to 9).

    weight: of the reconstruction. generated: of the adversarial loss of samples of the prior,
    which are decoded from `noise`.
    """
    mean, log_variance = model.encode(x)
    decoded = model.decoder(mean + noise * (log_variance / 2).exp())
    reconstruction = weight * (x - decoded).abs().flatten(1).sum(dim=1).mean()
    real = model.discriminator(x)
    fooled = model.discriminator(decoded)
    deceived = F.softplus(-fooled).mean()
    found_out = F.softplus(fooled).mean()
    if generated:
        sampled = model.discriminator(model.decoder(noise))
        deceived = deceived + generated * F.softplus(-sampled).mean()
        found_out = (found_out + F.softplus(sampled).mean()) / 2
    return Losses(
        encoder=reconstruction + divergence(mean, log_variance).mean(),
        decoder=reconstruction + deceived,
        discriminator=F.softplus(-real).mean() + found_out,
    )


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """`(N,)`: Kullback-Leibler, from normal distributions `(N, size)` to the standard one."""
    return (log_variance.exp() + mean.square() - 1 - log_variance).sum(dim=1) / 2


def train_vae_gan(
    data: Dataset,
    settings: VaeGanTraining | None = None,
    *,
    folder: str | Path | None = None,
    progress: Callable[[VaeGanReport], None] | None = None,
    device: torch.device | str = "cpu",
) -> VaeGan:
    """A VAE-GAN of the images of `data`, in evaluation mode.

    folder: where a checkpoint is kept after each epoch, and the weights in the end. If it holds
            one of the same run, training goes on from there to the same result.

    torch's global random state is left as it was. Raises `ValueError` for data that are no square
    images in [0, 1] or a folder with another run, `FloatingPointError` for losses that diverge.
    """
    settings = settings or VaeGanTraining()
    model = _new(data, settings)
    identity = {f.name: str(getattr(settings, f.name)) for f in fields(settings)}
    identity |= {"data": fingerprint(data), "model": str(model)}
    folder = None if folder is None else Path(folder)
    found = Checkpoint.resumed(folder, identity)
    if found is not None:
        models.load_state(model, found.state_dict, f"{folder}/{CHECKPOINT_FILE}")
    model.to(device)
    optimizers = {
        part: torch.optim.Adam(
            parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        for part, parameters in model.parts().items()
    }
    history: list[dict[str, float]] = []
    if found is not None:
        history = list(found.history)
        for part, optimizer in optimizers.items():
            optimizer.load_state_dict(found.optimizer[part])
    for epoch in range(len(history), settings.epochs):
        start = perf_counter()
        for optimizer in optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * settings.learning_rate_decay**epoch
        means = _epoch(model, data.x, optimizers, settings, epoch)
        report = VaeGanReport(epoch + 1, settings.epochs, *means, perf_counter() - start)
        if not all(map(math.isfinite, means)):
            raise FloatingPointError(
                f"the losses became {means} in epoch {epoch + 1}; lower learning_rate (it was "
                f"{settings.learning_rate:g} in the first epoch)"
            )
        history.append(asdict(report))
        if folder is not None:
            state = {part: optimizer.state_dict() for part, optimizer in optimizers.items()}
            Checkpoint(identity, model.state_dict(), state, history).write(folder)
        if progress is not None:
            progress(report)
    model.eval()
    x = data.x.to(device)
    model.standardise(x)
    with torch.no_grad():
        codes = torch.cat([model.code(some) for some in torch.split(x, CODED)])
    _fit_mixture(model, codes, settings.seed)
    if folder is not None:
        save_vae_gan(model, folder, identity)
    return model


def _fit_mixture(model: VaeGan, codes: Tensor, seed: int) -> None:
    """Fit the mixture that random codes are drawn from, of fewer parts where codes are few."""
    parts = max(1, min(model.components, len(codes) // (10 * model.size)))
    # Single-threaded and seeded: the same codes give the same mixture.
    mixture = GaussianMixture(parts, random_state=seed, reg_covar=1e-4)
    mixture.fit(codes.double().cpu().numpy())
    model.shares.zero_()
    for own, fitted in (
        (model.shares, mixture.weights_),
        (model.means, mixture.means_),
        (model.spreads, np.linalg.cholesky(mixture.covariances_)),
    ):
        own[:parts] = torch.from_numpy(fitted).to(own)


def _new(data: Dataset, settings: VaeGanTraining) -> VaeGan:
    shape = tuple(data.shape)
    lower, upper = (torch.as_tensor(bound) for bound in data.bounds)
    if len(shape) != 3:
        raise ValueError(f"a VAE-GAN is for images (C, H, W), not samples of shape {shape}")
    if float(lower.min()) != 0 or float(upper.max()) != 1:
        raise ValueError(f"{data.name} must have values in [0, 1] for a VAE-GAN")
    if len(data) <= settings.size:
        raise ValueError(
            f"{data.name} ({data.split}) has {len(data)} samples; codes of {settings.size} "
            "dimensions need more than that"
        )
    with torch.random.fork_rng([]):
        torch.manual_seed(settings.seed)
        return VaeGan(
            shape=shape, size=settings.size, widths=settings.widths, moving=settings.moving
        )


def _epoch(
    model: VaeGan,
    x: Tensor,
    optimizers: dict[str, torch.optim.Adam],
    settings: VaeGanTraining,
    epoch: int,
) -> tuple[float, float, float]:
    """One pass over the data; the mean losses of encoder, decoder and discriminator."""
    model.train()
    generator = torch.Generator().manual_seed(epoch_seed(settings.seed, epoch))
    order = torch.randperm(len(x), generator=generator)
    device = next(model.parameters()).device
    parts, total = model.parts(), [0.0, 0.0, 0.0]
    # Equal parts rather than full batches and a rest: batch norm cannot train on one sample.
    for rows in order.tensor_split(math.ceil(len(x) / settings.batch_size)):
        noise = torch.randn(len(rows), settings.size, generator=generator)
        found = losses(
            model, x[rows].to(device), noise.to(device), settings.reconstruction,
            generated=settings.generated,
        )  # fmt: skip
        each = (found.encoder, found.decoder, found.discriminator)
        # Each loss moves its own network alone.
        gradients = [
            torch.autograd.grad(loss, parts[name], retain_graph=True)
            for name, loss in zip(parts, each, strict=True)
        ]
        for name, some in zip(parts, gradients, strict=True):
            for parameter, gradient in zip(parts[name], some, strict=True):
                parameter.grad = gradient
            optimizers[name].step()
        total = [t + float(loss.detach()) * len(rows) for t, loss in zip(total, each, strict=True)]
    encoder, decoder, discriminator = (t / len(x) for t in total)
    return encoder, decoder, discriminator
