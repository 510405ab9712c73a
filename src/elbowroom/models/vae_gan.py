"""The three networks of a VAE-GAN (Manifold paper, suppl. B.2)."""

from __future__ import annotations

from torch import Tensor, nn

WIDTHS = (64, 128, 256)


class VaeGan(nn.Module):
    """Encoder, decoder and discriminator of images `(N, channels, side, side)` in [0, 1].

    Each has three 4x4 (de-)convolutions of stride 2 with 64, 128 and 256 channels, followed by
    ReLU and batch norm, and dense layers: two for mean and log-variance of the code, two for the
    discriminator's logit (the paper gives no width: `hidden` units), one before the decoder. The
    decoder is deterministic and ends in a sigmoid.

    size: of the latent code; 10 in the paper (3.3).
    """

    def __init__(
        self,
        *,
        channels: int = 1,
        side: int = 28,
        size: int = 10,
        widths: tuple[int, ...] = WIDTHS,
        hidden: int = 100,
    ) -> None:
        super().__init__()
        if side < 2 ** len(widths):
            raise ValueError(
                f"side must be at least {2 ** len(widths)}, as {len(widths)} layers halve it, "
                f"got {side}"
            )
        if size < 1:
            raise ValueError(f"size must be positive, got {size}")
        self.channels, self.side, self.size = channels, side, size
        self.widths, self.hidden = tuple(widths), hidden
        sides = [side]
        for _ in widths:
            sides.append(sides[-1] // 2)
        features = widths[-1] * sides[-1] ** 2
        self.encoder = nn.Sequential(*_down(channels, widths), nn.Flatten())
        self.mean, self.log_variance = nn.Linear(features, size), nn.Linear(features, size)
        up: list[nn.Module] = [
            nn.Linear(size, features),
            nn.ReLU(),
            nn.Unflatten(1, (widths[-1], sides[-1], sides[-1])),
            nn.BatchNorm2d(widths[-1]),
        ]
        outputs = [*widths[-2::-1], channels]
        for i, (before, after) in enumerate(zip(widths[::-1], outputs, strict=True)):
            # Halving drops a row of an odd side: it is put back.
            odd = sides[-2 - i] % 2
            up.append(nn.ConvTranspose2d(before, after, 4, stride=2, padding=1, output_padding=odd))
            if i + 1 < len(widths):
                up += [nn.ReLU(), nn.BatchNorm2d(after)]
        self.decoder = nn.Sequential(*up, nn.Sigmoid())
        self.discriminator = nn.Sequential(
            *_down(channels, widths),
            nn.Flatten(),
            nn.Linear(features, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 1),
            nn.Flatten(0),
        )

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the code, each `(N, size)`."""
        features = self.encoder(x)
        return self.mean(features), self.log_variance(features)

    def forward(self, x: Tensor) -> Tensor:
        """Reconstructions from the mean codes."""
        reconstructed: Tensor = self.decoder(self.encode(x)[0])
        return reconstructed

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """The parameters of encoder, decoder and discriminator, which have losses of their own."""
        heads = [self.encoder, self.mean, self.log_variance]
        return {
            "encoder": [p for part in heads for p in part.parameters()],
            "decoder": list(self.decoder.parameters()),
            "discriminator": list(self.discriminator.parameters()),
        }


def _down(channels: int, widths: tuple[int, ...]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Conv2d(channels, width, 4, stride=2, padding=1), nn.ReLU()]
        layers.append(nn.BatchNorm2d(width))
        channels = width
    return layers
