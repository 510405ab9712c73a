"""How much of the loss gradient lies along the manifold (Manifold, suppl. C.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from elbowroom.classifier import Classifier, as_classifier
from elbowroom.goals import Misclassified
from elbowroom.manifold.decoder import Codes, Decoder


def jacobian(decoder: Decoder, codes: Codes) -> Tensor:
    """`(N, k, *shape)`: the derivatives of the decoded samples, exactly, one pass a dimension."""
    with torch.enable_grad():
        z = codes.z.detach().requires_grad_()
        sample = decoder.decode(z, codes.context)
        # The product with the Jacobian as the derivative of that with its transpose.
        u = torch.zeros_like(sample, requires_grad=True)
        (product,) = torch.autograd.grad(sample, z, u, create_graph=True)
        columns = [
            torch.autograd.grad(product[:, i].sum(), u, retain_graph=True)[0]
            for i in range(codes.z.shape[1])
        ]
    return torch.stack(columns, dim=1).detach()


def tangent_cosine(
    clf: Classifier | nn.Module, decoder: Decoder, codes: Codes, y: Tensor
) -> Tensor:
    """`(N,)`, in [0, 1]: the cosine between the gradient of the loss and the tangent space.

    The paper argues that it is 0 where the loss is constant on the manifold. For a random
    direction of d features its square is k / d on average.
    """
    clf = as_classifier(clf)
    x = decoder.samples(codes)
    with clf.session():
        _, gradient = clf.gradient(x.to(clf.dtype), Misclassified(y).loss)
    gradient = gradient.flatten(1).double()
    tangents = jacobian(decoder, codes).flatten(2).double()
    # Directions of very different lengths: only their span counts.
    size = torch.linalg.vector_norm(tangents, dim=2, keepdim=True)
    tangents = tangents / size.clamp(min=1e-300)
    _, sizes, basis = torch.linalg.svd(tangents, full_matrices=False)
    tiny = sizes <= 1e-8 * sizes.amax(dim=1, keepdim=True).clamp(min=1e-300)
    along = (basis @ gradient[..., None]).squeeze(-1).masked_fill(tiny, 0.0)
    length = torch.linalg.vector_norm(gradient, dim=1).clamp(min=1e-300)
    cosine: Tensor = torch.linalg.vector_norm(along, dim=1) / length
    return cosine
