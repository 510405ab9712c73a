"""Training of classifiers: objectives, one loop, and recipes."""

from elbowroom.training.loop import (
    OPTIMIZERS,
    EpochReport,
    TrainingResult,
    TrainingRun,
    accuracy,
    train,
)
from elbowroom.training.objectives import (
    OBJECTIVES,
    Adversarial,
    Objective,
    OutputMargin,
    Plain,
    make_objective,
)
from elbowroom.training.recipes import RECIPES, Recipe

__all__ = [
    "OBJECTIVES",
    "OPTIMIZERS",
    "RECIPES",
    "Adversarial",
    "EpochReport",
    "Objective",
    "OutputMargin",
    "Plain",
    "Recipe",
    "TrainingResult",
    "TrainingRun",
    "accuracy",
    "make_objective",
    "train",
]
