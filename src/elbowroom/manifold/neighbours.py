"""The manifold as planes through a sample's neighbours, where no decoder is known."""

from __future__ import annotations

from typing import Literal

import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

# Points whose planes are fitted at a time: 50 neighbours of 3,000 features are 1 MB in float64.
CHUNK = 64


class Neighbours:
    """Samples `x` `(N, *shape)`, of which the `count` nearest to a point span a plane.

    Manifold paper, 3.2 and suppl. C, eq. 11; the distance is `|delta - X beta|`.
    """

    def __init__(self, x: Tensor, count: int = 50) -> None:
        if not 1 <= count <= len(x):
            raise ValueError(f"{count} neighbours of {len(x)} samples")
        self.x, self.count = x.flatten(1).double().cpu(), count
        self.search = NearestNeighbors(n_neighbors=count, algorithm="brute").fit(self.x.numpy())

    def distance(
        self, points: Tensor, origin: Tensor, *, centre: Literal["sample", "mean"] = "mean"
    ) -> Tensor:
        """`(N,)`, L2: of `points` `(N, *shape)` to the planes through their neighbours.

        centre: "sample": the plane through `origin` `(N, *shape)`, the unperturbed samples,
                spanned by the neighbours' differences from it; "mean": through the neighbours'
                mean, and `origin` does not matter. (The first would say 0 of `origin` itself.)
        """
        if centre not in ("sample", "mean"):
            raise ValueError(f"centre must be 'sample' or 'mean', not {centre!r}")
        flat, origins = (t.flatten(1).double().cpu() for t in (points, origin))
        if not len(flat):
            return flat.new_zeros(0)
        nearest = torch.from_numpy(self.search.kneighbors(flat.numpy(), return_distance=False))
        found = []
        for rows in torch.split(torch.arange(len(flat)), CHUNK):
            around = self.x[nearest[rows]]
            middle = origins[rows] if centre == "sample" else around.mean(dim=1)
            found.append(_off_plane(flat[rows] - middle, around - middle[:, None]))
        return torch.cat(found)


def _off_plane(delta: Tensor, directions: Tensor) -> Tensor:
    """`(N,)`: what of `delta` `(N, d)` the span of `directions` `(N, k, d)` does not reach."""
    # By singular vectors, for the directions are often dependent.
    _, sizes, basis = torch.linalg.svd(directions, full_matrices=False)
    tiny = sizes <= 1e-10 * sizes.amax(dim=1, keepdim=True).clamp(min=1e-300)
    along = (basis @ delta[..., None]).squeeze(-1).masked_fill(tiny, 0.0)
    rest = delta - (basis.mT @ along[..., None]).squeeze(-1)
    length: Tensor = torch.linalg.vector_norm(rest, dim=1)
    return length
