"""Recipes: they build what they name, and run from the seed alone."""

import dataclasses

import pytest
import torch

from elbowroom import data, models, training

# Data set -> shape of a sample, and classes.
SAMPLES = {
    "fonts": ((1, 28, 28), 10),
    "mnist": ((1, 28, 28), 10),
    "cifar10-jpeg75": ((3, 32, 32), 10),
    "iris": ((4,), 3),
    "wine": ((13,), 3),
    "spambase": ((57,), 2),
}


@pytest.mark.parametrize("name", training.RECIPES)
def test_every_recipe_builds_a_network_for_its_data(name):
    recipe = training.RECIPES[name]
    assert recipe.data in data.DATASETS
    state = torch.get_rng_state()
    first, second = recipe.build(), recipe.build()
    assert torch.equal(torch.get_rng_state(), state)
    for tensor, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(tensor, other)
    shape, classes = SAMPLES[recipe.data]
    assert first.eval()(torch.zeros(2, *shape)).shape == (2, classes)


def test_a_recipe_runs(tmp_path):
    recipe = dataclasses.replace(
        training.RECIPES["fonts-adversarial"],
        model_options={"hidden": 20},
        count=300,
        validation_count=100,
        settings=training.TrainingRun(epochs=2, seed=5),
    )
    result = recipe.run(tmp_path / "a", accelerator="cpu", metadata={"command": "this"})
    metadata = models.read_metadata(result.weights)
    assert metadata["architecture"] == "fonts-cnn"
    assert metadata["option hidden"] == "20"
    assert metadata["command"] == "this"
    assert metadata["data"].startswith("fonts/train, 300 samples")
    assert metadata["validation"].startswith("fonts/test, 100 samples")
    loaded = models.load("fonts-cnn", result.weights, hidden=20)
    again = recipe.run(tmp_path / "b", accelerator="cpu").model
    for tensor, other in zip(loaded.parameters(), again.parameters(), strict=True):
        assert torch.equal(tensor, other)
