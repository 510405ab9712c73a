"""Objectives against closed forms on linear classifiers."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from elbowroom import training
from elbowroom.norms import L1, L2, Linf

WIDE = (-100.0, 100.0)


def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def linear():
    """A two-class linear classifier on 6 features, in training mode, with samples and labels."""
    rng = torch.Generator().manual_seed(1)
    model = nn.Linear(6, 2)
    with torch.no_grad():
        model.weight.copy_(torch.randn(2, 6, generator=rng))
    return model, torch.randn(20, 6, generator=rng), torch.arange(20) % 2


def margins(model, x, y):
    logits = model(x).detach()
    return logits.gather(1, y[:, None])[:, 0] - logits.gather(1, 1 - y[:, None])[:, 0]


def test_plain_is_the_cross_entropy(linear):
    model, x, y = linear
    loss = training.Plain().loss(model, x, y, WIDE, generator())
    assert torch.equal(loss, F.cross_entropy(model(x), y))


@pytest.mark.parametrize(("norm", "dual"), [(Linf, 1), (L2, 2)])
def test_the_attack_is_the_worst_point_of_the_ball(linear, norm, dual):
    # On a linear classifier the margin falls by eps times the dual norm of w_y - w_other.
    model, x, y = linear
    objective = training.Adversarial(norm=norm, eps=0.3, steps=40, step_size=0.1)
    attacked = objective.perturbed(model, x, y, WIDE, generator())
    fall = 0.3 * torch.linalg.vector_norm(model.weight[0] - model.weight[1], ord=dual).item()
    found = margins(model, x, y) - margins(model, attacked, y)
    assert found.numpy() == pytest.approx(fall, rel=1e-4)
    assert norm.length(attacked - x).max().item() <= 0.3 * (1 + 1e-5)


def test_the_attack_stays_inside_the_bounds(linear):
    model, x, y = linear
    x = x.clamp(-0.5, 0.5)
    for bounds in [(-0.5, 0.5), (torch.full((6,), -0.5), torch.full((6,), 0.5))]:
        attacked = training.Adversarial(eps=0.3).perturbed(model, x, y, bounds, generator())
        assert attacked.abs().max().item() == 0.5


@pytest.mark.parametrize(("weight", "count"), [(0.5, 10), (0.25, 5), (1.0, 20)])
def test_weight_is_the_attacked_part_of_the_batch(linear, weight, count):
    model, x, y = linear
    seen = []
    model.register_forward_hook(lambda module, inputs, _: seen.append(inputs[0].detach()))
    training.Adversarial(eps=0.3, weight=weight).loss(model, x, y, WIDE, generator())
    moved = (seen[-1] != x).any(dim=1)
    assert moved.tolist() == [True] * count + [False] * (20 - count)


@pytest.mark.parametrize("norm", [Linf, L2])
def test_random_starts_fill_the_ball(norm):
    objective = training.Adversarial(norm=norm, eps=0.3)
    start = objective._start(torch.zeros(4000, 6), generator())
    length = norm.length(start)
    assert 0.299 < length.max() <= 0.3 * (1 + 1e-6)
    assert start.mean(dim=0).abs().max() < 0.02
    # Uniform in distance for L2: the median is half of eps. In Linf it is eps 2^(-1/6).
    expected = 0.15 if norm == L2 else 0.3 * 2 ** (-1 / 6)
    assert length.median().item() == pytest.approx(expected, rel=0.03)


def test_the_model_keeps_its_mode_and_its_parameters_trainable():
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)).train()
    x, y = torch.rand(20, 6), torch.arange(20) % 2
    mean = model[1].running_mean.clone()
    objective = training.Adversarial(eps=0.3)
    objective.perturbed(model, x, y, (0.0, 1.0), generator())
    assert model.training
    assert torch.equal(model[1].running_mean, mean)  # the attack left no trace in batch norm
    objective.loss(model, x, y, (0.0, 1.0), generator()).backward()
    assert all(p.grad is not None for p in model.parameters())


def _tanh_net() -> nn.Sequential:
    rng = torch.Generator().manual_seed(2)
    net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)).double()
    with torch.no_grad():
        for values in net.parameters():
            values.normal_(generator=rng)
    return net


def test_the_output_margin_is_the_distance_to_the_nearest_hyperplane():
    net, rng = _tanh_net(), torch.Generator().manual_seed(3)
    x, y = torch.randn(12, 6, generator=rng, dtype=torch.float64), torch.arange(12) % 4
    hidden, last = net[:2](x), net[2]
    expected = []
    for sample in range(12):
        z = last(hidden[sample])
        c = int(z.argmax())
        distances = [
            abs(z[c] - z[j]) / (last.weight[c] - last.weight[j]).norm() for j in range(4) if j != c
        ]
        expected.append(min(distances))
    plain = F.cross_entropy(net(x), y)
    loss = training.OutputMargin(weight=0.7).loss(net, x, y, WIDE, generator())
    torch.testing.assert_close(loss, plain - 0.7 * torch.stack(expected).mean())
    at_zero = training.OutputMargin(weight=0.0).loss(net, x, y, WIDE, generator())
    torch.testing.assert_close(at_zero, plain)


def test_the_gradient_of_the_output_margin_is_that_of_finite_differences():
    net, rng = _tanh_net(), torch.Generator().manual_seed(4)
    x, y = torch.randn(5, 6, generator=rng, dtype=torch.float64), torch.arange(5) % 4
    objective = training.OutputMargin(weight=0.5)

    def loss() -> torch.Tensor:
        return objective.loss(net, x, y, WIDE, generator())

    gradients = torch.autograd.grad(loss(), list(net.parameters()))
    step = 1e-6
    for values, gradient in zip(net.parameters(), gradients, strict=True):
        flat = values.detach().view(-1)
        for place in range(0, len(flat), 3):
            kept = float(flat[place])
            flat[place] = kept + step
            above = loss().item()
            flat[place] = kept - step
            below = loss().item()
            flat[place] = kept
            slope = (above - below) / (2 * step)
            assert gradient.view(-1)[place].item() == pytest.approx(slope, abs=1e-7, rel=1e-5)


def test_equal_rows_of_the_output_layer_leave_the_gradient_finite():
    net = _tanh_net()
    with torch.no_grad():
        net[2].weight[1] = net[2].weight[0]
    x, y = torch.randn(8, 6, dtype=torch.float64, generator=generator()), torch.arange(8) % 4
    training.OutputMargin(weight=0.5).loss(net, x, y, WIDE, generator()).backward()
    assert all(bool(values.grad.isfinite().all()) for values in net.parameters())


def test_the_output_margin_needs_a_linear_output():
    net = nn.Sequential(nn.Linear(6, 4), nn.Softplus())
    with pytest.raises(ValueError, match="ends in a linear layer"):
        training.OutputMargin(weight=1.0).loss(
            net, torch.rand(3, 6), torch.zeros(3).long(), WIDE, generator()
        )


def test_descriptions_name_every_hyperparameter():
    described = training.Adversarial(norm=L2, eps=0.5, steps=7).describe()
    assert described == {
        "objective": "adversarial",
        "norm": "L2",
        "eps": "0.5",
        "steps": "7",
        "step_size": "None",
        "rule": "None",
        "weight": "0.5",
        "search": "full",
    }


def test_make_objective():
    assert training.make_objective("plain") == training.Plain()
    made = training.make_objective("adversarial", {"norm": "l2", "eps": 0.5})
    assert made == training.Adversarial(norm=L2, eps=0.5)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("palin", {}, "unknown objective 'palin'; choose plain, adversarial"),
        ("plain", {"eps": 1}, "'plain' has no option 'eps'; its options: none"),
        ("adversarial", {}, "eps"),
        ("adversarial", {"eps": 0}, "must be positive"),
        ("adversarial", {"eps": 1, "steps": 0}, "must be positive"),
        ("adversarial", {"eps": 1, "step_size": -1}, "must be positive"),
        ("adversarial", {"eps": 1, "weight": 1.5}, r"weight must lie in \(0, 1\]"),
        ("output-margin", {"weight": -1.0}, "weight must not be negative"),
        ("adversarial", {"eps": 1, "norm": L1}, "L2 and Linf, not L1"),
        ("adversarial", {"eps": 1, "norm": "l3"}, "unknown norm 'l3'"),
    ],
)
def test_bad_options_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        training.make_objective(name, options)
