"""Max pools between weighted sums of their members, against gradients and against values."""

from __future__ import annotations

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from elbowroom.graph import trace
from elbowroom.graph.evaluate import max_pool
from elbowroom.regions.windows import Windows


@given(
    dims=st.integers(1, 2), size=st.integers(3, 8), kernel=st.integers(1, 3),
    stride=st.integers(1, 4), padding=st.integers(0, 1), dilation=st.integers(1, 3),
    ceil_mode=st.booleans(), width=st.sampled_from([0.0, 0.1, 1.0]), seed=st.integers(0, 100),
)  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_sums_of_members(dims, size, kernel, stride, padding, dilation, ceil_mode, width, seed):
    padding = min(padding, kernel // 2)
    assume(size + 2 * padding > (kernel - 1) * dilation)
    torch.manual_seed(seed)
    pool = (nn.MaxPool1d, nn.MaxPool2d)[dims - 1](
        kernel, stride, padding, dilation, ceil_mode=ceil_mode
    )
    shape = (3, size, size + 1)[: 1 + dims]
    graph = trace(nn.Sequential(pool, nn.Flatten()), shape, dtype=torch.float64)
    node = graph.nodes[1]
    x = torch.randn(2, *shape, dtype=torch.float64)
    kind = Windows(graph, node, x)

    z = (x + width * (2 * torch.rand_like(x) - 1)).requires_grad_()
    u = torch.randn(2, kind.entries, dtype=torch.float64)
    (expected,) = torch.autograd.grad(kind.quantities(z), z, u)
    torch.testing.assert_close(kind.transposed(u[:, None])[:, 0], expected)
    z = z.detach()

    low, high = kind.entries_within(x - width, x + width)
    envelope = kind.envelope(kind.settled(low, high), low, high, x)
    output = max_pool(node, z)
    below, above = envelope.slack(z, output)  # from the members, where `pull` goes to them
    u = torch.randn_like(output)
    rows, constant = envelope.pull(u[:, None])
    found = (rows[:, 0] * z).flatten(1).sum(dim=1) + constant[:, 0]
    lines = u.clamp(min=0) * (output - below) + u.clamp(max=0) * (output + above)
    torch.testing.assert_close(found, lines.flatten(1).sum(dim=1), rtol=0, atol=1e-10)
