"""Tables 5.1 to 5.3 and Fig. 5.8 to 5.13 of the Bounds thesis, on small networks, by hand."""

from __future__ import annotations

import json
import math
from collections import OrderedDict

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from elbowroom import Classifier
from elbowroom.attacks import DeepFool
from elbowroom.certificates import GlobalLipschitz
from elbowroom.cli import app, bounds_experiments
from elbowroom.data import Dataset
from elbowroom.graph import UnsupportedOperationError
from elbowroom.papers import bounds_cnn, bounds_cnn_pages, bounds_layers
from elbowroom.papers.page import About
from elbowroom.training import RECIPES
from report.page_parser import Page

ABOUT = About("networks", "images", facts=[("seed", "0")])
SOUND = {"global-lipschitz": GlobalLipschitz()}


class Unchained(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, x):
        return self.net(x)


def images(count: int) -> Dataset:
    x = torch.rand(count, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    y = torch.arange(count) % 3
    return Dataset("noise", "test", x, y, ("a", "<b>b</b>", "c"), (0.0, 1.0), "a generator")


def network(scale: float = 1.0) -> nn.Sequential:
    """Two convolutions, pooling and a dense head, all with weights from a generator."""
    layers = OrderedDict[str, nn.Module](
        conv1=nn.Conv2d(1, 3, 3),
        pool1=nn.MaxPool2d(2),
        conv2=nn.Conv2d(3, 4, 2),
        flatten=nn.Flatten(),
        fc=nn.Linear(4, 3),
    )
    net, rng = nn.Sequential(layers), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for values in net.parameters():
            values.copy_(scale * torch.randn(values.shape, generator=rng))
    return net


def test_the_curves_of_the_thesis():
    # "scaling four kernels gives a relative increase of about 1.5; for seven, a factor of 2".
    assert bounds_layers.increase_by_scaling(4) == pytest.approx(1 / 0.6561)
    assert bounds_layers.increase_by_scaling(7) == pytest.approx(2.0907516)
    # 1 + 0.1 / 2 (1 + 100 + 10000), by hand.
    assert bounds_layers.increase_by_layers(3) == pytest.approx(506.05)
    assert bounds_layers.increase_by_layers(1) == pytest.approx(1.05)
    # With alpha above 1 it saturates at 1 + delta / (kappa (1 - 1/alpha)).
    assert bounds_layers.increase_by_layers(60, alpha=2.0) == pytest.approx(1.1)


def test_equation_5_13_is_the_chain_with_a_raise_in_each_layer():
    """The recursion that it is derived from: each layer divides by a factor, then gains delta."""
    factors, last, delta = torch.tensor([3.0, 0.5, 7.0]).double(), 0.4, 0.03
    kappas, raised = [last], [last + delta]
    for factor in factors.tolist():
        kappas.append(kappas[-1] / factor)
        raised.append(raised[-1] / factor + delta)
    expected = [new / old for new, old in zip(raised, kappas, strict=True)]
    found = bounds_layers.increase(
        torch.tensor(kappas)[:, None].double(), torch.tensor([delta]).double()
    )
    assert found[:, 0].tolist() == pytest.approx(expected)
    # The curve of Fig. 5.13 is its case of equal ratios.
    kappas = torch.tensor([[2.0 * 0.01**place] for place in range(6)]).double()
    curve = bounds_layers.increase(kappas, torch.tensor([0.1]).double())[:, 0]
    assert curve.tolist() == pytest.approx(
        [bounds_layers.increase_by_layers(count) for count in range(1, 7)]
    )


def test_bounds_at_the_layers_of_a_chain():
    """A chain of 1x1 convolutions: the bound at each is the margin by what follows it."""
    layers = OrderedDict[str, nn.Module](
        conv1=nn.Conv2d(1, 1, 1, bias=False),
        conv2=nn.Conv2d(1, 1, 1, bias=False),
        flatten=nn.Flatten(),
        fc=nn.Linear(2, 2, bias=False),
    )
    net = nn.Sequential(layers).double()
    with torch.no_grad():
        net[0].weight.fill_(4.0)
        net[1].weight.fill_(0.5)
        net[3].weight.copy_(torch.eye(2))
    x = torch.tensor([[[[0.9, 0.4]]], [[[0.1, 0.2]]]], dtype=torch.float64)
    found = bounds_layers.layer_bounds(Classifier(net), x, bounds=SOUND)
    assert found.layers == ("conv1", "conv2", "fc")
    gap = torch.tensor([0.5, 0.1]).double() / math.sqrt(2)  # at the input
    expected = torch.stack([gap, 4 * gap, 2 * gap])
    torch.testing.assert_close(found.kappas["global-lipschitz"], expected, rtol=1e-6, atol=0)
    assert found.ratios("global-lipschitz") == pytest.approx([0.25, 2.0])
    # 1 + 0.05 (1, 1 + 1/2, 1 + 1/2 + 2).
    assert found.relative("global-lipschitz") == pytest.approx([1.05, 1.075, 1.175])


def test_networks_without_layers_to_bound_are_refused():
    x = torch.rand(2, 1, 6, 6)
    with pytest.raises(ValueError, match="no convolution and no pooling"):
        bounds_layers.layer_bounds(
            Classifier(nn.Sequential(nn.Flatten(), nn.Linear(36, 2))), x, bounds=SOUND
        )
    with pytest.raises(ValueError, match="not a chain"):
        bounds_layers.layer_bounds(Classifier(Unchained()), x, bounds=SOUND)
    clf = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(36, 2)))
    with pytest.raises(ValueError, match="no convolutions to scale"):
        bounds_layers.scaled_kernels(clf, x, torch.zeros(2).long(), attacks={}, bounds=SOUND)


def test_scaled_kernels_without_biases_follow_from_the_margin():
    """Without biases the logits scale too: the thesis's factor is taken back by the margin."""
    net, data = network(), images(6)
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.bias.zero_()
    before = [values.clone() for values in net.parameters()]
    found = bounds_layers.scaled_kernels(
        Classifier(net.double()),
        data.x.double(),
        data.y,
        attacks={"DeepFool": DeepFool()},
        bounds=SOUND,
        scale=0.5,
    )
    assert len(found.measured) == 3
    assert [margin / found.margins[0] for margin in found.margins] == pytest.approx([1, 0.5, 0.25])
    assert found.relative("global-lipschitz") == pytest.approx([1, 1, 1], rel=1e-6)
    assert found.relative() == pytest.approx([1, 1, 1], rel=1e-3)
    assert len(set(found.accuracy)) == 1
    for one, two in zip(net.parameters(), before, strict=True):
        assert torch.equal(one, two.double())  # the network itself is as it was
    page = Page(bounds_cnn_pages.figure_5_12_page({"small": found}, ABOUT))
    assert page.unbalanced == []
    assert list(page.charts) == ["computed", "scaled-small"]
    assert page.charts["computed"]["data"][0]["y"][4] == pytest.approx(16)


def test_perturbed_images():
    net, data = network(), images(130)
    found = bounds_cnn.perturb(net, data, SOUND, samples=110, strong=3, tested=130, budget=50)
    clf = Classifier(net)
    decided = clf.logits(data.x).argmax(dim=1)
    assert found.accuracy == pytest.approx(float((decided == data.y).double().mean()))
    measured = found.measured
    assert torch.equal(measured.decisions, decided[:110])
    worked = found.eps.isfinite()
    assert 0 < int(worked.sum()) < 110
    assert (found.eps[worked] <= bounds_cnn.MAX_EPS * (1 + 1e-5)).all()
    moved = measured.points["FGS"][worked] - data.x[:110][worked]
    change = moved.abs().flatten(1).amax(dim=1).double() * 255
    torch.testing.assert_close(found.eps[worked], change)
    # Of the strongest attack there are the first three alone.
    assert measured.distances["Closest"].isnan().tolist() == [False] * 3 + [True] * 107
    heat = found.heat()
    assert heat.sum() == 110
    assert heat.diagonal().sum() == int((~worked).sum())
    assert heat.sum(dim=1).tolist() == torch.bincount(decided[:110], minlength=3).tolist()
    lengths = measured.distances["FGS"][worked]
    assert found.normalised(measured.distances["FGS"]) == pytest.approx(
        float(lengths.mean()) * 255 / 36
    )
    assert not measured.violations("global-lipschitz").any()


def test_the_page_of_images(monkeypatch):
    net, data = network(), images(12)
    found = bounds_cnn.perturb(net, data, SOUND, samples=12, strong=0, tested=12)
    page = Page(bounds_cnn_pages.images_page({"lenet5": found}, ABOUT, name="Table 5.1"))
    assert page.unbalanced == []
    assert page.all("b") == []
    assert "<b>b</b>" in page.text
    shown = min(int(found.eps.isfinite().sum()), bounds_cnn_pages.SHOWN)
    assert len(page.all("img")) == 2 * shown
    assert page.charts["eps"]["data"][0]["x"] == ["lenet5"]
    coloured = [cell for cell in page.all("td") if "--heat" in (cell.get("style") or "")]
    assert len(coloured) == int((found.heat().fill_diagonal_(0) > 0).sum())
    assert "99.9%" in page.text  # the rate of the thesis
    # A network that nothing can be done to is shown as such.
    still = bounds_cnn.perturb(network(0.0), data, SOUND, samples=12, strong=0, tested=12)
    page = Page(bounds_cnn_pages.images_page({"lenet5": still}, ABOUT, name="Table 5.1"))
    assert page.unbalanced == []
    assert page.all("img") == []
    assert still.measured.success_rate("FGS") == 0


def test_the_pages_of_layers_tell_what_was_refused(monkeypatch):
    class Refusing(GlobalLipschitz):
        def bound(self, clf, x, y):
            raise UnsupportedOperationError("no <i>rule</i>")

    bounds = {**SOUND, "other": Refusing()}
    found = bounds_layers.layer_bounds(Classifier(network()), images(4).x, bounds=bounds)
    assert list(found.kappas) == ["global-lipschitz"]
    page = Page(bounds_cnn_pages.figure_5_13_page({"small": found}, ABOUT))
    assert page.unbalanced == []
    assert page.all("i") == []
    assert "small: other refused a part of the network: no <i>rule</i>." in page.text


def test_an_identity_at_the_end_changes_nothing():
    layers = OrderedDict[str, nn.Module](conv1=nn.Conv2d(1, 10, 6), flatten=nn.Flatten())
    net, x = nn.Sequential(layers), images(3).x
    longer = bounds_cnn.with_identity(net)
    assert torch.equal(longer(x), net(x))
    radii = [
        GlobalLipschitz()(Classifier(one.double()), x.double()).radius for one in (net, longer)
    ]
    torch.testing.assert_close(*radii, rtol=1e-9, atol=0)


def test_short_training_is_of_network_in_network_alone():
    assert bounds_cnn.recipe("lenet5", short=True) == RECIPES["bounds-lenet5"]
    assert bounds_cnn.recipe("cifar-nin", short=False) == RECIPES["bounds-cifar-nin"]
    short = bounds_cnn.recipe("cifar-nin", short=True)
    assert (short.count, short.settings.epochs) == (5_000, 2)
    for name in bounds_cnn.PUBLISHED:
        assert RECIPES[f"bounds-{name}"].model == name
        settings = RECIPES[f"bounds-{name}"].settings
        steps = {"mnist": 60_000, "cifar10-jpeg75": 50_000}[RECIPES[f"bounds-{name}"].data]
        wanted = 10_000 if name.startswith("lenet") else 120_000
        assert settings.epochs * steps / settings.batch_size == wanted


@pytest.fixture
def trained(monkeypatch):
    """The commands with a small network in place of those of chapter 5."""
    monkeypatch.setattr(bounds_cnn, "trained", lambda *_, **__: network())
    monkeypatch.setattr(bounds_experiments.data, "load", lambda *_: images(40))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("bounds-table-5.1", ["samples=10", "strong=1", "tested=20", "budget=50"]),
        ("bounds-table-5.3", ["samples=4", "strong=0", "tested=4"]),
        ("bounds-figure-5.12", ["samples=4", "steps=10"]),
        ("bounds-figure-5.13", ["samples=4"]),
    ],
)
def test_the_commands(trained, tmp_path, name, options):
    out = tmp_path / "page.html"
    given = [part for option in options for part in ("--set", option)]
    arguments = ["experiment", name, *given, "--bound", "global-lipschitz", "--out", str(out)]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout, parse_constant=pytest.fail)
    assert Page(out.read_text()).unbalanced == []
    if name.startswith("bounds-table"):
        one = values["lenet5"]
        assert one["bounds"]["global-lipschitz"]["violations"] == 0
        assert sum(map(sum, one["heat"])) == one["samples"]
        assert one["normalised_bounds"]["global-lipschitz"] > 0
    elif name.endswith("12"):
        assert values["lenet5"]["computed"] == pytest.approx([1, 1 / 0.9, 1 / 0.81])
    else:
        assert values["lenet5"]["relative"]["global-lipschitz"][0] == pytest.approx(1.05)
    text = CliRunner().invoke(app, arguments).stdout
    assert "lenet5" in text
