"""The training loop: it learns, it resumes to the same bits, and it refuses what does not fit."""

import dataclasses
import math
import sys

import pytest
import torch
from problems import digits, digits_net, moons, moons_net, seeded
from torch import nn

from elbowroom import models, training
from elbowroom.attacks.pgd import PGD
from elbowroom.norms import Linf
from elbowroom.training.checkpoint import FILE as CHECKPOINT

FAST = training.TrainingRun(epochs=4, batch_size=50)


def run(folder=None, objective=None, settings=FAST, data=None, model=None, **options):
    return training.train(
        model or seeded(moons_net),
        data or moons("train"),
        objective or training.Plain(),
        settings,
        folder=folder,
        accelerator="cpu",
        **options,
    )


def assert_same_weights(first, second):
    second = second.state_dict()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.state_dict().items())


def test_learns_two_moons():
    settings = training.TrainingRun(epochs=40, batch_size=20, learning_rate=0.03)
    result = run(settings=settings, model=seeded(lambda: models.build("mlp", sizes=(2, 32, 32, 2))))
    assert not result.model.training
    assert training.accuracy(result.model, moons("test")) >= 0.99


@pytest.mark.parametrize(("optimizer", "learning_rate"), [("adam", 0.01), ("sgd", 0.1)])
def test_learns_digits(optimizer, learning_rate):
    # The test digits are by other writers: logistic regression gets 0.92 of them, ridge 0.88.
    settings = training.TrainingRun(epochs=15, optimizer=optimizer, learning_rate=learning_rate)
    reports = []
    result = run(
        settings=settings,
        data=digits("train"),
        model=seeded(digits_net),
        validation=digits("test"),
        progress=reports.append,
    )
    assert tuple(reports) == result.history
    assert [report.epoch for report in reports] == list(range(1, 16))
    assert reports[-1].loss < 0.1 < reports[0].loss
    assert reports[-1].accuracy == training.accuracy(result.model, digits("test")) >= 0.9


def test_adversarial_training_raises_robust_accuracy():
    settings = training.TrainingRun(epochs=10)
    x, y = digits("test").x[:200], digits("test").y[:200]
    robust, clean = {}, {}
    for objective in (training.Plain(), training.Adversarial(norm=Linf, eps=0.15, weight=1.0)):
        model = run(
            objective=objective, settings=settings, data=digits("train"), model=seeded(digits_net)
        ).model
        failed = PGD(norm=Linf, eps=0.15, steps=20, line_search_steps=0)(model, x, y).success
        robust[objective.name] = 1 - failed.double().mean().item()
        clean[objective.name] = training.accuracy(model, digits("test"))
    assert robust["adversarial"] > robust["plain"] + 0.2
    assert clean["adversarial"] > 0.85


def test_the_result_depends_on_the_seed_alone():
    torch.manual_seed(1)
    first = run().model
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = run().model
    assert torch.equal(torch.get_rng_state(), state)
    assert_same_weights(first, second)
    other = run(settings=dataclasses.replace(FAST, seed=1)).model
    assert not torch.equal(other[0].weight, first[0].weight)


def interrupt_after(epoch):
    def progress(report):
        if report.epoch == epoch:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("objective", [training.Plain(), training.Adversarial(eps=0.05, steps=3)])
def test_an_interrupted_run_resumes_to_the_same_bits(tmp_path, objective):
    uninterrupted = run(tmp_path / "a", objective)
    for epoch in (1, 3):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "b", objective, progress=interrupt_after(epoch))
    torch.rand(5)  # the global generator is somewhere else by now
    epochs = []
    resumed = run(tmp_path / "b", objective, progress=lambda report: epochs.append(report.epoch))
    assert epochs == [4]
    assert_same_weights(resumed.model, uninterrupted.model)
    assert [r.loss for r in resumed.history] == [r.loss for r in uninterrupted.history]
    written = [models.read_metadata(result.weights) for result in (resumed, uninterrupted)]
    assert written[0] == written[1]


def test_an_interruption_within_an_epoch_leaves_the_last_checkpoint(tmp_path):
    class Interrupted(training.Plain):
        batches = 0

        def loss(self, *arguments):
            Interrupted.batches += 1
            if Interrupted.batches == 20:  # in the third epoch of eight batches
                raise KeyboardInterrupt
            return super().loss(*arguments)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Interrupted())
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]
    resumed = run(tmp_path)
    assert len(resumed.history) == 4
    assert_same_weights(resumed.model, run().model)


def test_a_finished_run_is_not_trained_again(tmp_path):
    first = run(tmp_path)
    again = run(tmp_path, progress=interrupt_after(1))
    assert_same_weights(first.model, again.model)
    assert first.history == again.history
    # Measured on other samples than before, if these are new.
    measured = run(tmp_path, validation=moons("test"))
    found = models.read_metadata(measured.weights)["validation accuracy"]
    assert found == f"{training.accuracy(first.model, moons('test')):.4f}"


def test_the_weights_file_tells_how_it_was_made(tmp_path):
    result = run(tmp_path, validation=moons("test"), metadata={"command": "make it"})
    metadata = models.read_metadata(result.weights)
    expected = {"epochs": "4", "seed": "0", "objective": "plain", "command": "make it"}
    assert expected.items() <= metadata.items()
    assert metadata["data"].startswith("moons/train, 400 samples, SHA-256 ")
    assert metadata["validation accuracy"] == f"{result.history[-1].accuracy:.4f}"
    for file in (result.weights, tmp_path / CHECKPOINT):
        other = seeded(moons_net, seed=9)
        models.load_state(other, models.read_state(file), file)
        assert_same_weights(other, result.model)


class TestRefusals:
    @pytest.fixture
    def folder(self, tmp_path):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, training.Adversarial(eps=0.05), progress=interrupt_after(1))
        return tmp_path

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"settings": dataclasses.replace(FAST, epochs=5)}, "epochs was 4, is now 5"),
            ({"settings": dataclasses.replace(FAST, seed=3)}, "seed was 0, is now 3"),
            ({"objective": training.Adversarial(eps=0.1)}, r"eps was 0\.05, is now 0\.1"),
            ({"objective": training.Plain()}, "objective was adversarial, is now plain"),
            ({"data": moons("train", 401)}, "data was moons/train, 400 samples, .* is now moons"),
            ({"model": nn.Linear(2, 2)}, r"model was Sequential\(.*is now Linear\("),
        ],
    )
    def test_changed_runs_name_what_changed(self, folder, change, message):
        before = (folder / CHECKPOINT).read_bytes()
        options = {"objective": training.Adversarial(eps=0.05), **change}
        with pytest.raises(ValueError, match=f"(?s){message}.*another folder"):
            run(folder, **options)
        assert (folder / CHECKPOINT).read_bytes() == before

    def test_changed_samples_are_noticed(self, folder):
        data = moons("train")
        data.x[7, 1] += 0.001
        with pytest.raises(ValueError, match="data was"):
            run(folder, training.Adversarial(eps=0.05), data=data)

    def test_a_broken_checkpoint(self, folder):
        content = (folder / CHECKPOINT).read_bytes()
        for broken in (content[:1000], b"", b"not a checkpoint"):
            (folder / CHECKPOINT).write_bytes(broken)
            with pytest.raises(ValueError, match="delete it to start the run anew"):
                run(folder, training.Adversarial(eps=0.05))

    def test_data_that_do_not_fit_the_model(self):
        with pytest.raises(ValueError, match="build it with classes=2"):
            run(model=nn.Linear(2, 3))
        with pytest.raises(ValueError, match=r"rejects samples of shape \(2,\)"):
            run(model=nn.Linear(5, 2))
        with pytest.raises(ValueError, match="has 1 samples"):
            run(data=moons("train").take(1))

    def test_a_loss_that_diverges(self, tmp_path):
        settings = training.TrainingRun(epochs=9, optimizer="sgd", learning_rate=1e30)
        with pytest.raises(FloatingPointError, match=r"lower learning_rate \(it was 1e\+30"):
            run(tmp_path, settings=settings, model=seeded(lambda: nn.Linear(2, 2)))
        for path in tmp_path.glob(CHECKPOINT):  # whatever was kept is finite
            assert all(t.isfinite().all() for t in models.read_state(path).values())

    def test_without_lightning(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "lightning.fabric", None)
        with pytest.raises(ImportError, match=r"pip install 'elbowroom\[train\]'"):
            run()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"epochs": 0}, "epochs must be positive, got 0"),
            ({"learning_rate": math.nan}, "learning_rate must be positive, got nan"),
            ({"weight_decay": -1}, "weight_decay must not be negative"),
            ({"optimizer": "adma"}, "unknown optimizer 'adma'; choose adam, sgd"),
        ],
    )
    def test_bad_settings(self, options, message):
        with pytest.raises(ValueError, match=message):
            training.TrainingRun(**options)


def test_a_rest_of_one_sample_is_no_batch_of_its_own():
    # 400 = 7 * 57 + 1, and batch norm cannot train on one sample.
    run(settings=dataclasses.replace(FAST, batch_size=57, epochs=1))
