"""The three networks of a VAE-GAN (Manifold paper, suppl. B.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from elbowroom.data.fonts import IDENTITY, transform

WIDTHS = (64, 128, 256)


class VaeGan(nn.Module):
    """Encoder, decoder and discriminator of images `(N, C, H, W)` in [0, 1].

    Each has three 4x4 (de-)convolutions of stride 2 with 64, 128 and 256 channels, followed by
    ReLU and batch norm, and dense layers: two for mean and log-variance of the code, two for the
    discriminator's logit (the paper gives no width: `hidden` units), one before the decoder. The
    decoder is deterministic and ends in a sigmoid.

    What training leaves is seldom distributed as the prior. `standardise` makes a linear change:
    `code` and `decode` work with codes that have mean 0 and covariance 1 over the training images.
    What they are beyond that is a mixture of `components` normal distributions, which `draw` is
    from once they are fitted (Ghosh et al. 2020, ex-post density estimation; the prior until then).

    shape: of an image. size: of the latent code; 10 in the paper (3.3).
    moving: the decoder's last layer is a spatial transformer, which moves its image by six numbers
            that are linear in the code. The paper's has none.
    """

    centre: Tensor
    factor: Tensor
    shares: Tensor
    means: Tensor
    spreads: Tensor

    def __init__(
        self,
        *,
        shape: tuple[int, int, int] = (1, 28, 28),
        size: int = 10,
        widths: tuple[int, ...] = WIDTHS,
        hidden: int = 100,
        moving: bool = False,
        components: int = 10,
    ) -> None:
        super().__init__()
        channels, *sides = shape
        if min(sides) < 2 ** len(widths):
            raise ValueError(
                f"sides must be at least {2 ** len(widths)}, as {len(widths)} layers halve them, "
                f"got {sides}"
            )
        if size < 1:
            raise ValueError(f"size must be positive, got {size}")
        self.shape, self.size = tuple(shape), size
        self.widths, self.hidden = tuple(widths), hidden
        self.moving, self.components = moving, components
        halved = [(sides[0] >> layers, sides[1] >> layers) for layers in range(len(widths) + 1)]
        height, width = halved[-1]
        features = widths[-1] * height * width
        self.encoder = nn.Sequential(*_down(channels, widths), nn.Flatten())
        self.mean, self.log_variance = nn.Linear(features, size), nn.Linear(features, size)
        up: list[nn.Module] = [
            nn.Linear(size, features),
            nn.ReLU(),
            nn.Unflatten(1, (widths[-1], height, width)),
            nn.BatchNorm2d(widths[-1]),
        ]
        outputs = [*widths[-2::-1], channels]
        for i, (before, after) in enumerate(zip(widths[::-1], outputs, strict=True)):
            # Halving drops a row of an odd side: it is put back.
            odd = (halved[-2 - i][0] % 2, halved[-2 - i][1] % 2)
            up.append(nn.ConvTranspose2d(before, after, 4, stride=2, padding=1, output_padding=odd))
            if i + 1 < len(widths):
                up += [nn.ReLU(), nn.BatchNorm2d(after)]
        drawn = nn.Sequential(*up, nn.Sigmoid())
        self.decoder: nn.Module = _Moving(drawn, size) if moving else drawn
        self.discriminator = nn.Sequential(
            *_down(channels, widths),
            nn.Flatten(),
            nn.Linear(features, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 1),
            nn.Flatten(0),
        )
        self.register_buffer("centre", torch.zeros(size))
        self.register_buffer("factor", torch.eye(size))
        self.register_buffer("shares", torch.full((components,), 1 / components))
        self.register_buffer("means", torch.zeros(components, size))
        self.register_buffer("spreads", torch.eye(size).repeat(components, 1, 1))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the code, each `(N, size)`."""
        features = self.encoder(x)
        return self.mean(features), self.log_variance(features)

    def forward(self, x: Tensor) -> Tensor:
        """Reconstructions from the mean codes."""
        reconstructed: Tensor = self.decoder(self.encode(x)[0])
        return reconstructed

    def code(self, x: Tensor) -> Tensor:
        """`(N, size)`: the standardised mean code. Raises `ValueError` for other shapes."""
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(
                f"this VAE-GAN is for images of shape {self.shape}, not {tuple(x.shape[1:])}"
            )
        off = self.encode(x)[0] - self.centre
        codes: Tensor = torch.linalg.solve_triangular(self.factor, off.mT, upper=False).mT
        return codes

    def decode(self, z: Tensor) -> Tensor:
        """Images of standardised codes `(N, size)`."""
        images: Tensor = self.decoder(self.centre + z @ self.factor.mT)
        return images

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """`(count, size)`: random standardised codes."""
        which = torch.multinomial(self.shares, count, replacement=True, generator=generator)
        noise = torch.randn(count, self.size, generator=generator).to(self.means)
        codes: Tensor = self.means[which] + (self.spreads[which] @ noise[..., None]).squeeze(-1)
        return codes

    @torch.no_grad()
    def standardise(self, x: Tensor, batch: int = 1000) -> None:
        """Give the mean codes of the images `x` mean 0 and covariance 1; more than `size` images.

        A linear change of the code, which neither adds nor removes any image of the manifold.
        """
        means = torch.cat([self.encode(some)[0] for some in torch.split(x, batch)]).double()
        covariance = torch.cov(means.mT).reshape(self.size, self.size)
        # A dimension without use has no spread at all.
        least = 1e-6 * torch.diagonal(covariance).mean().clamp(min=1e-12)
        covariance += least * torch.eye(self.size, dtype=covariance.dtype, device=x.device)
        self.centre = means.mean(dim=0).to(self.centre)
        self.factor = torch.linalg.cholesky(covariance).to(self.factor)

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """The parameters of encoder, decoder and discriminator, which have losses of their own."""
        heads = [self.encoder, self.mean, self.log_variance]
        return {
            "encoder": [p for part in heads for p in part.parameters()],
            "decoder": list(self.decoder.parameters()),
            "discriminator": list(self.discriminator.parameters()),
        }


class _Moving(nn.Module):
    """What `image` decodes, moved by an affine transformation that is linear in the code."""

    def __init__(self, image: nn.Module, size: int) -> None:
        super().__init__()
        self.image, self.parameters_of = image, nn.Linear(size, len(IDENTITY))
        nn.init.normal_(self.parameters_of.weight, std=0.05)
        with torch.no_grad():
            self.parameters_of.bias.copy_(torch.tensor(IDENTITY))

    def forward(self, z: Tensor) -> Tensor:
        return transform(self.image(z), self.parameters_of(z))


def _down(channels: int, widths: tuple[int, ...]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Conv2d(channels, width, 4, stride=2, padding=1), nn.ReLU()]
        layers.append(nn.BatchNorm2d(width))
        channels = width
    return layers
