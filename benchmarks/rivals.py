"""Minimal-norm L2 attacks of other libraries, behind one interface.

Each is `call(network, x, y) -> points`, for inputs in [0, 1] that `network` classifies as `y`.
A library is imported when one of its attacks is asked for; README.md says how to install them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version

import torch
from torch import Tensor, nn

Call = Callable[[nn.Module, Tensor, Tensor], Tensor]
RADIUS_ROUNDS = 7
"""Rounds of the search for the smallest radius at which an attack in a ball succeeds."""
FIRST_RADIUS = 1.0


class CountedNetwork(nn.Module):
    """Counts passes per sample: a forward or backward pass of a batch of 8 counts 8."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.forwards = 0
        self.backwards = 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += len(x)
        logits: Tensor = self.network(x)
        if logits.requires_grad:
            logits.register_hook(self._count_backward)
        return logits

    def _count_backward(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


@dataclass(frozen=True)
class Rival:
    """config: library, version and options. warm_up: what compiles on first use, if anything."""

    config: str
    call: Call
    warm_up: Call | None = None


def nearest_of(x: Tensor, y: Tensor, network: nn.Module, candidates: list[Tensor]) -> Tensor:
    """Of several points per sample the nearest that is not classified as `y`; else `x`."""
    best, shortest = x.clone(), torch.full((len(x),), torch.inf)
    for points in candidates:
        with torch.no_grad():
            fooled = network(points).argmax(dim=1) != y
        length = torch.where(fooled, (points - x).flatten(1).norm(dim=1), torch.inf)
        closer = length < shortest
        best[closer], shortest[closer] = points[closer].detach(), length[closer]
    return best


def smallest_radius(
    within: Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor],
) -> Call:
    """A minimal-norm attack from one that is given radii `(N,)`: doubled until there is a
    success, then bisected, for each sample by itself."""

    def call(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        best, low = x.clone(), torch.zeros(len(x))
        shortest, radius = torch.full_like(low, torch.inf), torch.full_like(low, FIRST_RADIUS)
        for _ in range(RADIUS_ROUNDS):
            points = within(network, x, y, radius).detach()
            found = nearest_of(x, y, network, [points])
            length = (found - x).flatten(1).norm(dim=1)
            succeeded = length > 0
            closer = succeeded & (length < shortest)
            best[closer], shortest[closer] = found[closer], length[closer]
            low = torch.where(succeeded, low, radius)
            radius = torch.where(shortest.isfinite(), (low + shortest) / 2, 2 * radius)
        return best

    return call


# -- foolbox -----------------------------------------------------------------------------------


def _foolbox(name: str, **options: float) -> Rival:
    import foolbox

    attack = getattr(foolbox.attacks, name)(**options)

    def call(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        model = foolbox.PyTorchModel(network, bounds=(0, 1), device=x.device)
        points: Tensor = attack(model, x, y, epsilons=None)[0]
        return points

    return Rival(_describe("foolbox", name, options), call)


def _brendel_bethge(steps: int) -> Rival:
    """Starts at the nearest image of the batch that is classified otherwise; where there is
    none, foolbox looks for a start in noise."""
    import foolbox
    import numba  # noqa: F401  # foolbox would notice only after it has found its starts

    def run(steps: int, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        model = foolbox.PyTorchModel(network, bounds=(0, 1), device=x.device)
        with torch.no_grad():
            decided = network(x).argmax(dim=1)
        away = torch.cdist(x.flatten(1), x.flatten(1))
        away[decided[None, :] == y[:, None]] = torch.inf
        shortest, nearest = away.min(dim=1)
        starts = x[nearest].clone() if bool(shortest.isfinite().all()) else None
        attack = foolbox.attacks.L2BrendelBethgeAttack(steps=steps)
        points: Tensor = attack(model, x, y, starting_points=starts, epsilons=None)[0]
        return points

    return Rival(
        _describe("foolbox", "L2BrendelBethgeAttack", {"steps": steps}),
        call=lambda network, x, y: run(steps, network, x, y),
        warm_up=lambda network, x, y: run(2, network, x, y),  # numba compiles for seconds
    )


# -- pyautoattack ------------------------------------------------------------------------------


def _fab(targets: int, n_iter: int = 100) -> Rival:
    """FAB as AutoAttack ships it, without its threshold: the nearest point of all runs."""
    from pyautoattack.fab_pt import FABAttack_PT

    def call(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        attack = FABAttack_PT(network, norm="L2", n_iter=n_iter, targeted=targets > 0)
        with torch.no_grad():
            if not targets:
                return attack.attack_single_run(x, y)
            found = []
            for rank in range(2, targets + 2):
                attack.target_class = rank
                found.append(attack.attack_single_run(x, y, is_targeted=True))
        return nearest_of(x, y, network, found)

    return Rival(_describe("pyautoattack", "FAB", {"targets": targets, "n_iter": n_iter}), call)


def _apgd(loss: str, n_iter: int = 100) -> Rival:
    """APGD in its ball, whose radius is searched for."""
    from pyautoattack.autopgd_base import APGDAttack

    def within(network: nn.Module, x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
        radii = radius.reshape(-1, *[1] * (x.ndim - 1))  # its arithmetic broadcasts
        attack = APGDAttack(network, n_iter=n_iter, norm="L2", eps=radii, loss=loss)
        attack.init_hyperparam(x)
        points: Tensor = attack.attack_single_run(x, y)[3]
        return points

    options = {"loss": loss, "n_iter": n_iter, "radius_rounds": RADIUS_ROUNDS}
    return Rival(_describe("pyautoattack", "APGD", options), smallest_radius(within))


def _apgd_targeted(targets: int, n_iter: int = 100) -> Rival:
    """The targeted APGD of AutoAttack towards the `targets` strongest other classes."""
    from pyautoattack.autopgd_base import APGDAttack_targeted

    def within(network: nn.Module, x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
        radii = radius.reshape(-1, *[1] * (x.ndim - 1))
        attack = APGDAttack_targeted(network, n_iter=n_iter, norm="L2", eps=radii)
        attack.init_hyperparam(x)
        with torch.no_grad():
            order = network(x).argsort(dim=1)
        found = []
        for rank in range(2, targets + 2):
            attack.y_target = order[:, -rank]
            found.append(attack.attack_single_run(x, y)[3])
        return nearest_of(x, y, network, found)

    options = {"targets": targets, "n_iter": n_iter, "radius_rounds": RADIUS_ROUNDS}
    return Rival(_describe("pyautoattack", "APGD-T", options), smallest_radius(within))


# -- torchattacks ------------------------------------------------------------------------------


def _torchattacks(name: str, **options: float) -> Rival:
    import torchattacks

    def call(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        points: Tensor = getattr(torchattacks, name)(network, **options)(x, y)
        return points

    return Rival(_describe("torchattacks", name, options), call)


def _torchattacks_cw(steps: int, constants: tuple[float, ...]) -> Rival:
    """It has no search for the constant, so several are tried and the nearest point is kept."""
    import torchattacks

    def call(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        found = [torchattacks.CW(network, c=c, steps=steps)(x, y) for c in constants]
        return nearest_of(x, y, network, found)

    return Rival(_describe("torchattacks", "CW", {"c": constants, "steps": steps}), call)


def _torchattacks_pgd(steps: int) -> Rival:
    """PGD in its ball, whose radius is searched for; steps of a quarter of it (LRA, section 5)."""
    import torchattacks

    def within(network: nn.Module, x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
        alpha = radius.reshape(-1, *[1] * (x.ndim - 1)) / 4
        # A random start would multiply its noise by a single radius for the whole batch.
        attack = torchattacks.PGDL2(
            network, eps=radius, alpha=alpha, steps=steps, random_start=False
        )
        points: Tensor = attack(x, y)
        return points

    options = {"steps": steps, "radius_rounds": RADIUS_ROUNDS}
    return Rival(_describe("torchattacks", "PGDL2", options), smallest_radius(within))


def _describe(library: str, name: str, options: dict[str, object]) -> str:
    shown = ", ".join(f"{option}={value!r}" for option, value in options.items())
    return f"{library} {version(library)} {name}({shown})"


RIVALS: dict[str, Callable[[], Rival]] = {
    "foolbox-deepfool": lambda: _foolbox("L2DeepFoolAttack"),
    "foolbox-ddn-100": lambda: _foolbox("DDNAttack", steps=100),
    "foolbox-ddn-1000": lambda: _foolbox("DDNAttack", steps=1000),
    "foolbox-fmn-1000": lambda: _foolbox("L2FMNAttack", steps=1000),
    "foolbox-cw-6x1000": lambda: _foolbox(
        "L2CarliniWagnerAttack", binary_search_steps=6, steps=1000
    ),
    "foolbox-bb-1000": lambda: _brendel_bethge(1000),
    "autoattack-fab": lambda: _fab(0),
    "autoattack-fab-targeted": lambda: _fab(9),
    "autoattack-apgd-ce": lambda: _apgd("ce"),
    "autoattack-apgd-dlr": lambda: _apgd("dlr"),
    "autoattack-apgd-targeted": lambda: _apgd_targeted(9),
    "torchattacks-deepfool": lambda: _torchattacks("DeepFool"),
    "torchattacks-cw-3x1000": lambda: _torchattacks_cw(1000, (0.1, 1.0, 10.0)),
    "torchattacks-pgd": lambda: _torchattacks_pgd(40),
}
