"""Training of classifiers: objectives, one loop, and recipes."""

from elbowroom.training.loop import (
    OPTIMIZERS,
    EpochReport,
    TrainingResult,
    TrainingRun,
    accuracy,
    train,
)
from elbowroom.training.objectives import Adversarial, Objective, OutputMargin, Plain
from elbowroom.training.on_manifold import Combined, OnManifold
from elbowroom.training.recipes import RECIPES, Recipe
from elbowroom.training.registry import OBJECTIVES, make_objective

__all__ = [
    "OBJECTIVES",
    "OPTIMIZERS",
    "RECIPES",
    "Adversarial",
    "Combined",
    "EpochReport",
    "Objective",
    "OnManifold",
    "OutputMargin",
    "Plain",
    "Recipe",
    "TrainingResult",
    "TrainingRun",
    "accuracy",
    "make_objective",
    "train",
]
