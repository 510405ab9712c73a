"""Distances by brute force: every activation pattern of a tiny network, one by one."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from elbowroom import Classifier
from elbowroom.goals import Goal, Misclassified
from elbowroom.graph import AffineMap, Pattern
from elbowroom.graph.ops import PiecewiseAffine
from elbowroom.regions.blocks import pooling_windows
from elbowroom.regions.polytope import Polytopes, decision_towards


def least_distance(A: np.ndarray, b: np.ndarray) -> float:
    """`min |v|, A v <= b`; inf if infeasible. Lawson and Hanson 1974, chapter 23 (LDP)."""
    scale = np.linalg.norm(A, axis=1)
    if np.any((scale < 1e-13) & (b < -1e-11)):
        return math.inf
    A, b = A[scale >= 1e-13], b[scale >= 1e-13]
    scale = scale[scale >= 1e-13]
    G, h = -A / scale[:, None], -b / scale
    if np.all(h <= 0):
        return 0.0
    E = np.vstack([G.T, h])
    f = np.zeros(len(E))
    f[-1] = 1.0
    u, _ = nnls(E, f, maxiter=100 * E.shape[1])
    r = E @ u - f
    if -r[-1] < 1e-10:
        return math.inf
    return float(np.linalg.norm(r[:-1] / r[-1]))


def every_pattern(clf: Classifier, shape: tuple[int, ...]) -> Pattern:
    """All combinations of pieces, feasible or not."""
    choices: list[list[int]] = []
    layout: list[tuple[int, tuple[int, ...], torch.dtype]] = []
    for node in clf.graph(shape).nodes:
        if isinstance(node.op, PiecewiseAffine):
            choices += [list(range(len(node.op.breaks) + 1))] * math.prod(node.shape)
            layout.append((node.index, node.shape, torch.uint8))
        elif type(node.op).__name__ == "MaxPool":
            source = clf.graph(shape).nodes[node.inputs[0]].shape
            spatial = len(node.op.kernel)
            members, inside = pooling_windows(node.op, source[-spatial:], node.shape[-spatial:])
            windows = [m[i].tolist() for m, i in zip(members, inside, strict=True)]
            choices += windows * math.prod(node.shape[:-spatial])
            layout.append((node.index, node.shape, torch.int64))
    table = torch.tensor(list(itertools.product(*choices)))
    pieces, first = {}, 0
    for index, size, dtype in layout:
        count = math.prod(size)
        pieces[index] = table[:, first : first + count].view(-1, *size).to(dtype)
        first += count
    return Pattern(pieces)


def brute_force(clf: Classifier, x: Tensor, goal: Goal) -> float:
    """The exact distance of one sample `(1, *shape)`, in float64, to where `goal` is met."""
    if bool(goal.met(clf.logits(x))):
        return 0.0
    shape = tuple(x.shape[1:])
    everything = every_pattern(clf, shape)
    affine = AffineMap(clf.graph(shape), everything)
    count = len(next(iter(everything.pieces.values())))
    features = x.numel()
    lower, upper = (v.expand(shape).flatten().numpy() for v in (clf.lower, clf.upper))
    box = np.vstack([np.eye(features), -np.eye(features)])
    origin = x.flatten().numpy()
    room = np.concatenate([upper - origin, origin - lower])
    best = math.inf
    for decision in decisions(goal, clf.logits(x)):
        polytopes = Polytopes(clf, affine, decision.expand(count, -1, -1))
        slots = torch.arange(polytopes.slots).expand(count, -1)
        rows = polytopes.rows(slots).flatten(2).numpy()
        excess = polytopes.excess(x.expand(count, *shape)).numpy()
        for A, e in zip(rows, excess, strict=True):
            real = np.isfinite(e)
            distance = least_distance(np.vstack([A[real], box]), np.concatenate([-e[real], room]))
            best = min(best, distance)
    return best


def decisions(goal: Goal, logits: Tensor) -> list[Tensor]:
    if not isinstance(goal, Misclassified):
        return [decision_towards(goal, logits[:, 0], logits)]
    others = [j for j in range(logits.shape[1]) if j != int(goal.labels)]
    return [decision_towards(goal, torch.tensor([j]), logits) for j in others]
