"""Rows within receptive fields: those of the whole network, less their zeros."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from elbowroom import L1, L2, Linf
from elbowroom.certificates import unit_bounds
from elbowroom.certificates.relaxation import Relaxation
from elbowroom.certificates.unit_bounds import Balls, entry_bounds
from elbowroom.graph import trace
from elbowroom.graph.evaluate import CONV, evaluate
from elbowroom.graph.ops import Conv
from elbowroom.norms import Norm
from elbowroom.regions.local_substitution import LocalSubstitution
from elbowroom.regions.receptive_fields import Window, receptive_fields
from elbowroom.regions.transposed_convolution import transposed_convolution
from elbowroom.regions.windows import Windows
from nets import randomise_statistics


class Blocks(nn.Module):
    """Every local operation: a residual block with strides, dilation, a concatenation, pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2)
        self.shortcut = nn.Conv2d(4, 6, 1, stride=2, bias=False)
        self.response = nn.LocalResponseNorm(3)
        self.side = nn.Conv2d(6, 2, 1)
        self.third = nn.Conv2d(8, 3, 2, dilation=2, padding=1)
        self.pool = nn.AvgPool2d(2, stride=2, padding=1)
        self.last = nn.Conv2d(3, 2, 1)
        self.head = nn.Linear(2 * 6 * 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.softplus(self.norm(self.first(2 * x - 0.3)))
        x = self.response(F.leaky_relu(self.second(x) + self.shortcut(x), 0.1))
        x = torch.cat([x, torch.tanh(self.side(x))], 1)
        x = torch.relu(self.last(self.pool(torch.relu(self.third(x)))))
        return self.head(x.flatten(1))


def signal() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(2, 3, 4, stride=3, padding=2), nn.BatchNorm1d(3), nn.ReLU(),
        nn.Conv1d(3, 4, 3, padding=2, dilation=2), nn.Hardtanh(), nn.AvgPool1d(2),
        nn.Conv1d(4, 4, 2, groups=4, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2),
    )  # fmt: skip


class Pooled(nn.Module):
    """Max pools of every kind: overlapping, padded, dilated, beside a convolution, over the end."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.third = nn.Conv2d(4, 3, 2)
        self.head = nn.Linear(3 * 5 * 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(torch.relu(self.first(x)), 3, stride=2, padding=1)
        x = self.second(x) + F.max_pool2d(x, 2, stride=1, padding=1, dilation=2)
        x = F.max_pool2d(F.softplus(x), 2, ceil_mode=True)
        return self.head(torch.relu(self.third(x)).flatten(1))


def pooled_signal() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(2, 3, 3), nn.MaxPool1d(3, stride=2, padding=1), nn.BatchNorm1d(3), nn.Tanh(),
        nn.MaxPool1d(2, stride=3, dilation=3), nn.Conv1d(3, 2, 2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(2 * 8, 2),
    )  # fmt: skip


NETS = {
    "blocks": (Blocks, (2, 20, 20)), "signal": (signal, (2, 46)),
    "pooled": (Pooled, (2, 22, 22)), "pooled_signal": (pooled_signal, (2, 50)),
}  # fmt: skip
ROOM = 50


def around(name: str, seed: int, norm: Norm = L2) -> Relaxation:
    build, shape = NETS[name]
    torch.manual_seed(seed)
    return relaxation_of(build(), shape, norm)


def relaxation_of(model: nn.Module, shape: tuple[int, ...], norm: Norm) -> Relaxation:
    graph = trace(randomise_statistics(model.double()), shape, dtype=torch.float64)
    x = torch.rand(3, *shape, dtype=torch.float64)
    zero = torch.zeros(shape, dtype=torch.float64)
    return Relaxation(graph, evaluate(graph, x), zero, zero + 1, norm)


def whole(rows: Tensor, window: Window, place: list[int], shape: torch.Size) -> Tensor:
    """Rows of one window `(C, *size)` in the input `(C, *shape)`; what is outside must be zero."""
    first = [a + t * p for a, t, p in zip(window.start, window.step, place, strict=True)]
    large = rows.new_zeros(shape[0], *(n + 2 * ROOM for n in shape[1:]))
    at = (slice(a + ROOM, a + ROOM + n) for a, n in zip(first, window.size, strict=True))
    large[(slice(None), *at)] = rows
    inside = large[(slice(None), *(slice(ROOM, ROOM + n) for n in shape[1:]))]
    assert int(large.count_nonzero()) == int(inside.count_nonzero())
    return inside


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("seed", range(3))
def test_local_rows_are_those_of_the_whole_network(name, seed):
    relaxation = around(name, seed)
    envelopes = relaxation.enclose(torch.full((3,), 0.3, dtype=torch.float64)).envelopes
    substitution = relaxation.fine.substitution
    for kind in relaxation.kinds.values():
        source = kind.source.index
        fields = receptive_fields(relaxation.graph, kind.node.index)
        assert fields is not None
        owner, entry = torch.randint(3, (40,)), torch.randint(kind.entries, (40,))
        local = LocalSubstitution(substitution, fields, envelopes)
        place, u = kind.in_windows(owner, entry, relaxation.lower)
        rows, constant = local.pull(owner, place, torch.stack([u, -u], dim=1))
        for n in range(40):
            one_hot = torch.zeros(3, 2, kind.entries, dtype=torch.float64)
            one_hot[owner[n], :, entry[n]] = torch.tensor([1.0, -1.0], dtype=torch.float64)
            u = kind.transposed(one_hot)
            expected, rest, _ = substitution.pull({source: u}, envelopes)
            there = [int(p) for p in torch.unravel_index(place[n], local.places)]
            found = [whole(row, fields[0], there, relaxation.lower.shape) for row in rows[n]]
            close = {"rtol": 0, "atol": 1e-12}
            torch.testing.assert_close(torch.stack(found).flatten(1), expected[owner[n]], **close)
            torch.testing.assert_close(constant[n], rest[owner[n]], **close)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("norm", [L1, L2, Linf], ids=str)
def test_bounds_on_entries_are_those_of_whole_rows(name, norm):
    compare_with_whole_rows(around(name, 5, norm), 0.3)


def compare_with_whole_rows(relaxation: Relaxation, share: float) -> None:
    """Bounds on a share of all entries, in both precisions, against those without windows."""
    norm = relaxation.norm
    radius = torch.tensor([0.0, 0.1, 0.5], dtype=torch.float64)
    envelopes = relaxation.enclose(radius).envelopes
    balls = Balls(relaxation.values[0], radius, relaxation.lower, relaxation.upper, norm)
    for index, kind in relaxation.kinds.items():
        lines = {i: envelope for i, envelope in envelopes.items() if i < index}
        coarse_lines = {i: envelope.to(torch.float32) for i, envelope in lines.items()}
        mask = torch.rand(3, kind.entries) < share
        fine, coarse = (each.substitution for each in (relaxation.fine, relaxation.coarse))
        found = entry_bounds(fine, kind, mask, lines, balls)
        rough = entry_bounds(coarse, kind, mask, coarse_lines, balls)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(unit_bounds, "receptive_fields", lambda *_: None)
            expected = entry_bounds(fine, kind, mask, lines, balls)
        source = kind.source.index
        error = relaxation.coarse.shares[source] * relaxation.magnitude(source)
        slack = kind.entries_within(-error, error)[1]
        for bound, other, truth in zip(found, rough, expected, strict=True):
            torch.testing.assert_close(bound, truth, rtol=0, atol=1e-12)
            assert torch.equal(bound.isfinite(), mask)
            assert bool(((other - truth).abs() <= slack)[mask].all())


@given(
    dims=st.integers(1, 2), norm=st.sampled_from([L1, L2, Linf]), seed=st.integers(0, 100),
    pools=st.tuples(*2 * [st.tuples(
        st.integers(1, 3), st.integers(1, 2), st.integers(0, 1), st.integers(1, 2), st.booleans()
    )]),
    padding=st.integers(0, 2), stride=st.integers(1, 2),
)  # fmt: skip
@settings(max_examples=30, deadline=None)
def test_bounds_behind_any_max_pools(dims, norm, seed, pools, padding, stride):
    torch.manual_seed(seed)
    conv, pool = ((nn.Conv1d, nn.MaxPool1d), (nn.Conv2d, nn.MaxPool2d))[dims - 1]
    max_pools = [pool(k, s, min(p, k // 2), d, ceil_mode=ceil) for k, s, p, d, ceil in pools]
    body = nn.Sequential(
        conv(1, 2, 3, stride, padding), nn.ReLU(), max_pools[0],
        conv(2, 2, 2, padding=padding), nn.LeakyReLU(0.2), max_pools[1], nn.ReLU(), nn.Flatten(),
    )  # fmt: skip
    shape = (1, *[(60, 32)[dims - 1]] * dims)
    features = body(torch.zeros(1, *shape)).shape[1]
    relaxation = relaxation_of(nn.Sequential(body, nn.Linear(features, 2)), shape, norm)
    last = max(i for i, kind in relaxation.kinds.items() if isinstance(kind, Windows))
    assume(receptive_fields(relaxation.graph, last) is not None)
    compare_with_whole_rows(relaxation, 0.02)


def test_the_features_that_units_depend_on():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Conv2d(2, 2, 3, stride=2, padding=1))
    graph = trace(nn.Sequential(model, nn.Flatten(), nn.Linear(2 * 16, 2)), (1, 10, 10))
    fields = receptive_fields(graph, 3)
    assert fields is not None
    assert fields[0] == Window((-1, -1), (5, 5), (2, 2))
    x = torch.rand(1, 1, 10, 10).requires_grad_()
    numbers = torch.arange(1.0, 101).view(1, 1, 10, 10)
    seen = fields[0].gather(numbers, (4, 4))
    for unit, out in enumerate(model(x).flatten()):
        (gradient,) = torch.autograd.grad(out, x, retain_graph=True)
        pixels = set((gradient.flatten().nonzero().flatten() + 1).tolist())
        assert pixels == set(seen[unit % 16].flatten().int().tolist()) - {0}


def test_units_that_see_most_of_the_input_have_no_window():
    model = nn.Sequential(nn.Conv2d(1, 2, 5), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3), nn.ReLU())
    graph = trace(nn.Sequential(model, nn.Linear(3, 2)), (1, 6, 6))
    assert all(receptive_fields(graph, index) is None for index in range(1, len(graph.nodes)))
    pooled = nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.Conv2d(2, 2, 3), nn.Flatten())
    graph = trace(nn.Sequential(pooled, nn.Linear(2 * 25, 2)), (1, 16, 16))
    assert all(receptive_fields(graph, index) is not None for index in (1, 2, 3))


def test_pools_of_samples_without_channels_have_no_window():
    pool = nn.MaxPool2d((2, 2), padding=(0, 0), dilation=(1, 1))
    model = nn.Sequential(pool, nn.Flatten(), nn.Linear(64, 2))
    relaxation = relaxation_of(model, (16, 16), L2)  # samples without channels
    assert receptive_fields(relaxation.graph, 1) is None
    compare_with_whole_rows(relaxation, 0.3)


@given(
    dims=st.integers(1, 2), groups=st.integers(1, 2), kernel=st.integers(1, 4),
    stride=st.integers(1, 3), padding=st.integers(0, 3), dilation=st.integers(1, 2),
    size=st.integers(1, 9), count=st.sampled_from([0, 5]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)  # fmt: skip
@settings(max_examples=150)
def test_transposed_convolutions(
    dims, groups, kernel, stride, padding, dilation, size, count, dtype
):
    assume(size + 2 * padding >= (kernel - 1) * dilation + 1)
    weight = torch.randn(4, 3, *[kernel] * dims, dtype=dtype)
    op = Conv(weight, None, (stride,) * dims, (padding,) * dims, (dilation,) * dims, groups)
    x = torch.zeros(count, 3 * groups, *[size] * dims, dtype=dtype).requires_grad_()
    out = CONV[dims](x, weight, None, op.stride, op.padding, op.dilation, groups)
    u = torch.randn_like(out)
    (expected,) = torch.autograd.grad(out, x, u)
    full = transposed_convolution(u, op)
    length = (out.shape[2] - 1) * stride + (kernel - 1) * dilation + 1
    assert full.shape[2:] == (length,) * dims
    # What of it falls on the padding is nothing to the input, the rest of the input is not seen.
    found = F.pad(full, [-padding, size - length + padding] * dims)
    scale = float(weight.abs().sum())
    torch.testing.assert_close(found, expected, rtol=0, atol=scale * torch.finfo(dtype).eps * 10)
