import hashlib
import importlib.metadata
import json
import random
import time
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from residual import pipeline
from residual.data.digits import read_digits
from residual.data.images import Dataset, ImageFiles
from residual.data.transforms import Augmentation
from residual.evaluate.error import top_k_error
from residual.evaluate.score import score
from residual.events import Finished, Measured, Note, Progress, Started, Stopped
from residual.models.catalog import describe
from residual.pipeline import Diverged, Plan, Stop, classification
from residual.pipeline.classification import adopt
from residual.recipes.finetune import finetune
from residual.recipes.paper import paper
from residual.recipes.recipe import Recipe
from residual.train.loop import NonFinite
from residual.train.optimizer import Lamb, Sgd
from residual.train.schedule import Schedule
from residual.weights.sources import load


@cache
def few_digits() -> Dataset:
    data = read_digits()
    return replace(data, train=data.train.select(torch.arange(150)), test=data.test.select(torch.arange(60)))


@pytest.fixture(autouse=True)
def small_and_quick(monkeypatch, tmp_path):
    """150 of the digits, and networks of 4 to 8 channels."""
    monkeypatch.setattr(classification, "open_dataset", lambda where, **named: few_digits())
    narrow = {"widths": (4, 4, 8), "stem_width": 4}
    monkeypatch.setattr(classification, "describe", lambda name: replace(describe(name), **narrow))
    monkeypatch.setenv("RESIDUAL_CACHE", str(tmp_path / "cache"))


def recipe(**changes: object) -> Recipe:
    """All that could fail to resume: mixed images, momentum, an average, smoothing, a warm-up by error."""
    start = Recipe(
        name="quick",
        schedule=Schedule(shape="cosine", rate=0.05, warmup_error=99.0),
        iterations=20,
        batch=16,
        optimizer=Sgd(nesterov=True, decay=5e-4, decay_all=False),
        augmentation=Augmentation(pad=1, flip=False, mixup=0.5, cutmix=0.5),
        label_smoothing=0.1,
        average=0.95,
        exact_statistics=150,
        precision="float32",
    )
    return replace(start, **changes)


def plan(changed: Recipe | None = None, **changes: object) -> Plan:
    start = Plan(model="resnet8", data="digits", recipe=changed or recipe(), device="cpu", workers=0, save_steps=5)
    return replace(start, **changes)


def plain(**changes: object) -> Recipe:
    """A recipe that learns digits in a second."""
    schedule = Schedule(shape="linear", rate=0.1)
    plainly = {"average": None, "label_smoothing": 0.0, "augmentation": Augmentation(crop="none", flip=False)}
    return recipe(**({"schedule": schedule, **plainly, "exact_statistics": 0} | changes))


def result(run: Path) -> dict[str, object]:
    """All that a run ends with: equal exactly when two runs ended alike."""
    manifest = json.loads(max((run / "checkpoints").glob("step-*.json")).read_text())
    manifest["state"].pop("seconds")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if "resumed" not in line]
    return {
        "training": manifest["sha256"],
        "state": manifest["state"],
        "metrics": [{name: value for name, value in line.items() if name != "time"} for line in lines],
        "files": {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in [*run.glob("*.safetensors"), *run.glob("evaluation*.json")]
        },
    }


def train_until(events, stop: Stop, step: int) -> list[object]:
    """Follow a run and ask it to stop when `step` iterations are done, or a little later."""
    seen = []
    for event in events:
        seen.append(event)
        if isinstance(event, (Progress, Measured)) and event.step >= step:
            stop.signal = 15
    return seen


# --- a run and what it leaves ---


def test_a_run_leaves_its_description_measurements_weights_and_evaluation(tmp_path):
    run = tmp_path / "runs" / "first"
    events = list(pipeline.train(plan(), run))
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Finished)
    names = sorted(path.name for path in run.iterdir())
    assert names == ["checkpoints", "evaluation.json", "metrics.jsonl", "model.safetensors", "run.json", "run.lock"]
    described = json.loads((run / "run.json").read_text())
    assert described["data"]["counts"] == {"train": 150, "test": 60}
    assert described["data"]["fingerprint"] == few_digits().train.fingerprint
    assert described["model"]["classes"] == 10
    assert described["model"]["channels"] == 1
    assert described["environment"]["torch"] == importlib.metadata.version("torch")
    assert pipeline.planned(run) == plan()
    assert len(list((run / "checkpoints").glob("*.json"))) == 2


def test_measurements_are_of_every_tenth_of_an_epoch_and_the_held_out_images_twenty_times(tmp_path):
    run = tmp_path / "run"
    events = list(pipeline.train(plan(), run))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    training = [line for line in lines if "loss" in line]
    looks = [line for line in lines if "test_error" in line and not line.get("final")]
    assert [line["step"] for line in training] == list(range(1, 21))
    assert [line["step"] for line in looks] == list(range(1, 21))
    assert {line["weights"] for line in looks} == {"average"}
    assert [line["time"] for line in lines] == sorted(line["time"] for line in lines)
    assert [event.loss for event in events if isinstance(event, Progress)] == [line["loss"] for line in training]
    assert training[-1]["epoch"] == round(20 * 16 / 150, 4)
    assert 0 <= min(line["train_error"] for line in training) <= max(line["train_error"] for line in training) <= 100


def test_a_finished_run_loads_and_scores_what_its_evaluation_says(tmp_path):
    run = tmp_path / "run"
    *_, finished = pipeline.train(plan(plain(iterations=60)), run)
    found = json.loads((run / "evaluation.json").read_text())
    model = load(run)
    scores = score(model, few_digits().test, model.card.preprocessing)
    assert top_k_error(scores) == found["top1_error"] == finished.evaluations["last"]["top1_error"]
    assert found["top1_error"] < 60  # 90 by chance
    assert model.card.classes == few_digits().classes
    assert model.card.history["top1_error"] == found["top1_error"]
    assert model.card.history["iterations"] == 60


def test_the_same_plan_gives_the_same_run(tmp_path):
    for name in ("one", "two"):
        list(pipeline.train(plan(), tmp_path / name))
        torch.rand(7)  # the state of the random generator is nobody's business
    assert result(tmp_path / "one") == result(tmp_path / "two")


def test_another_seed_gives_another_run(tmp_path):
    for seed in (0, 1):
        list(pipeline.train(plan(seed=seed), tmp_path / str(seed)))
    assert result(tmp_path / "0")["training"] != result(tmp_path / "1")["training"]


def test_a_network_learns_the_digits(tmp_path):
    events = pipeline.train(plan(plain(iterations=60)), tmp_path / "run")
    errors = [event.train_error for event in events if isinstance(event, Progress)]
    assert sum(errors[:5]) / 5 > 70
    assert sum(errors[-5:]) / 5 < 30


# --- stopping and going on ---


@pytest.mark.parametrize("seed", [0, 1])
def test_stopped_at_random_steps_a_run_ends_bit_for_bit_as_never_stopped(tmp_path, monkeypatch, seed):
    """With mixed images, dropout, stochastic depth, momentum, a weight average and a warm-up that ends midway."""
    random_net = {"widths": (4, 4, 8), "stem_width": 4, "dropout": 0.2, "stochastic_depth": 0.5}
    monkeypatch.setattr(classification, "describe", lambda name: replace(describe(name), **random_net))
    asked = plan(recipe(validation=0.2))
    list(pipeline.train(asked, tmp_path / "whole"))
    rng = random.Random(seed)
    run, stop = tmp_path / "run", Stop()
    seen = train_until(pipeline.train(asked, run, stop=stop), stop, rng.randrange(1, 8))
    stops = 0
    while not isinstance(seen[-1], Finished):
        assert isinstance(seen[-1], Stopped)
        assert seen[-1].signal == 15
        stops += 1
        stop = Stop()
        seen = train_until(pipeline.resume(run, stop=stop), stop, rng.randrange(seen[-1].step + 1, seen[-1].step + 8))
    assert stops >= 2
    assert result(run) == result(tmp_path / "whole")


def test_so_does_one_with_lamb_parts_groups_clipping_and_an_average_now_and_then(tmp_path):
    many = recipe(
        optimizer=Sgd(),
        lamb=Lamb(decay=0.02),
        schedule=Schedule(shape="cosine", rate=0.01, warmup=0.2, warmup_from=0.001),
        loss="binary",
        accumulate=2,
        batch_norm_group=4,
        clip=0.5,
        average_every=3,
        stochastic_depth=0.5,
    )
    list(pipeline.train(plan(many), tmp_path / "whole"))
    run, stop = tmp_path / "run", Stop()
    train_until(pipeline.train(plan(many), run, stop=stop), stop, 7)  # between two updates of the average
    assert json.loads((run / "run.json").read_text())["model"]["stochastic_depth"] == 0.5
    list(pipeline.resume(run))
    assert result(run) == result(tmp_path / "whole")


def test_one_with_lamb_and_the_binary_loss_learns_the_digits(tmp_path):
    learning = plain(optimizer=Sgd(), lamb=Lamb(), loss="binary", iterations=60, clip=1.0)
    *_, finished = pipeline.train(plan(learning), tmp_path / "run")
    assert finished.evaluations["last"]["top1_error"] < 60  # 90 by chance


def test_a_stop_between_two_measurements_loses_nothing(tmp_path):
    """150 images in batches of 4 are 38 iterations an epoch, and so a line is the mean of four."""
    asked = plan(recipe(batch=4, iterations=21), save_steps=100)
    list(pipeline.train(asked, tmp_path / "whole"))
    run, stop = tmp_path / "run", Stop()
    for event in pipeline.train(asked, run, stop=stop):
        if isinstance(event, Measured) and event.step == 6:  # two iterations after a line
            stop.signal = 2
    assert event == Stopped(step=7, signal=2) or event.step == 6
    list(pipeline.resume(run))
    assert result(run) == result(tmp_path / "whole")


def test_the_time_of_a_resumed_run_goes_on(tmp_path):
    run, stop = tmp_path / "run", Stop()
    train_until(pipeline.train(plan(), run, stop=stop), stop, 8)
    spent = json.loads(max((run / "checkpoints").glob("step-*.json")).read_text())["state"]["seconds"]
    *_, finished = pipeline.resume(run)
    assert finished.seconds > spent > 0
    times = [json.loads(line)["time"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert times == sorted(times)


def test_resuming_a_finished_run_says_the_same_again(tmp_path):
    run = tmp_path / "run"
    *_, finished = pipeline.train(plan(), run)
    before = result(run)
    *_, again = pipeline.resume(run)
    assert again.evaluations == finished.evaluations
    assert result(run) == before


def test_a_run_goes_on_with_other_workers_and_intervals(tmp_path):
    run, stop = tmp_path / "run", Stop()
    list(pipeline.train(plan(), tmp_path / "whole"))
    train_until(pipeline.train(plan(save_steps=3), run, stop=stop), stop, 7)
    list(pipeline.resume(run))
    assert result(run) == result(tmp_path / "whole")


def test_other_images_are_refused_when_a_run_goes_on(tmp_path, monkeypatch):
    run, stop = tmp_path / "run", Stop()
    train_until(pipeline.train(plan(), run, stop=stop), stop, 3)
    data = few_digits()
    other = replace(data, train=data.train.select(torch.arange(149)))
    monkeypatch.setattr(classification, "open_dataset", lambda where, **named: other)
    with pytest.raises(ValueError, match="put the data back as it was"):
        list(pipeline.resume(run))


def test_a_run_whose_checkpoints_are_gone_does_not_silently_begin_again(tmp_path):
    run, stop = tmp_path / "run", Stop()
    train_until(pipeline.train(plan(), run, stop=stop), stop, 4)
    for path in (run / "checkpoints").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=r"trained until iteration [45], but no checkpoint is left"):
        list(pipeline.resume(run))


def test_a_run_cut_off_before_its_first_checkpoint_begins_again(tmp_path):
    run = tmp_path / "run"
    next(pipeline.train(plan(), run))
    for path in (run / "checkpoints").iterdir():
        path.unlink()
    list(pipeline.resume(run))
    list(pipeline.train(plan(), tmp_path / "whole"))
    assert result(run) == result(tmp_path / "whole")


def test_what_is_no_run_cannot_be_resumed(tmp_path):
    with pytest.raises(ValueError, match="no run folder"):
        list(pipeline.resume(tmp_path))
    (tmp_path / "run.json").write_text('{"plan": {"model": 3}}')
    with pytest.raises(ValueError, match="does not hold a plan"):
        list(pipeline.resume(tmp_path))


# --- what is refused leaves no trace ---


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": "nowhere/at/all"}, "there is no 'nowhere/at/all'"),
        ({"model": "resnet21"}, "nearest: 20 or 26"),
        ({"device": "cuda:99"}, "there is no device"),
        ({"size": 224}, "leave --size out"),
        ({"recipe": replace(finetune(), batch=16), "model": "no/such/weights"}, "no/such/weights"),
    ],
)
def test_a_plan_that_cannot_be_followed_leaves_no_trace(tmp_path, monkeypatch, changes, words):
    from residual.data.sources import open_dataset

    monkeypatch.setattr(classification, "describe", describe)
    monkeypatch.setattr(classification, "open_dataset", open_dataset)
    with pytest.raises(ValueError, match=words):
        list(pipeline.train(plan(**changes), tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_folder_that_holds_a_run_is_not_trained_in_again(tmp_path):
    run = tmp_path / "run"
    list(pipeline.train(plan(recipe(iterations=1)), run))
    before = result(run)
    with pytest.raises(ValueError, match="already holds a run"):
        list(pipeline.train(plan(), run))
    assert result(run) == before


def test_one_image_is_not_trained_on(tmp_path, monkeypatch):
    data = few_digits()
    monkeypatch.setattr(
        classification, "open_dataset", lambda where, **named: replace(data, train=data.train.select(torch.arange(1)))
    )
    with pytest.raises(ValueError, match="at least 2"):
        list(pipeline.train(plan(), tmp_path / "run"))


# --- numbers that are not finite ---


def poison(monkeypatch, *, step: int, times: int) -> list[int]:
    """Let the loss of iteration `step` (counted from 1) be NaN the first `times` times; returns all steps tried."""
    tried: list[int] = []
    honest = classification.Classification.loss_of

    def loss_of(self, model, batch):
        loss, measures = honest(self, model, batch)
        tried.append(self.training.step + 1)
        if tried[-1] == step and Counter(tried)[step] <= times:
            loss = loss * float("nan")
        return loss, measures

    monkeypatch.setattr(classification.Classification, "loss_of", loss_of)
    return tried


def late_checks(monkeypatch) -> None:
    """Look for bad numbers as rarely as on a GPU."""
    honest = classification.fit
    monkeypatch.setattr(
        classification, "fit", lambda *a, check_every, **named: honest(*a, check_every=check_every or 50, **named)
    )


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("step", [1, 3, 8, 20])
def test_a_passing_fault_costs_a_step_back_and_no_bit(tmp_path, monkeypatch, step, late):
    list(pipeline.train(plan(), tmp_path / "whole"))
    tried = poison(monkeypatch, step=step, times=1)
    if late:
        late_checks(monkeypatch)
    events = list(pipeline.train(plan(), tmp_path / "run"))
    notes = [event.text for event in events if isinstance(event, Note) and "not finite" in event.text]
    assert len(notes) == 1
    assert "resumed" not in (tmp_path / "run" / "metrics.jsonl").read_text()
    assert "going back to the last checkpoint" in notes[0]
    assert Counter(tried)[step] == 2
    assert result(tmp_path / "run") == result(tmp_path / "whole")


@pytest.mark.parametrize("late", [False, True])
def test_a_lasting_fault_ends_the_run_with_the_names_of_its_files(tmp_path, monkeypatch, late):
    tried = poison(monkeypatch, step=8, times=99)
    if late:
        late_checks(monkeypatch)
    run = tmp_path / "run"
    with pytest.raises(Diverged, match="iteration 8 is not finite again") as caught:
        list(pipeline.train(plan(), run))
    assert isinstance(caught.value.__cause__, NonFinite)
    assert Counter(tried)[8] == 2
    data = few_digits().train
    order = classification.Order(len(data), 0)
    names = [data.names[i] for i in order.at(torch.arange(7 * 16, 8 * 16))[1].tolist()]
    assert str(caught.value).endswith(": " + ", ".join(names))
    for path in (run / "checkpoints").glob("*.safetensors"):
        assert all(value.isfinite().all() for value in load_file(path).values())


def test_time_spent_before_a_step_back_is_spent(tmp_path, monkeypatch):
    poison(monkeypatch, step=15, times=1)
    began = time.monotonic()
    *_, finished = pipeline.train(plan(save_steps=100), tmp_path / "run")
    assert finished.seconds == pytest.approx(time.monotonic() - began, abs=0.2)


# --- a time budget ---


def test_a_time_budget_is_kept_and_the_rate_is_annealed_within_it(tmp_path):
    budget = 7.0
    asked = plan(plain(iterations=None, epochs=3, exact_statistics=150), budget=budget)
    began = time.monotonic()
    events = list(pipeline.train(asked, tmp_path / "run"))
    assert 0.8 * budget < time.monotonic() - began < 1.2 * budget
    progress = [event for event in events if isinstance(event, Progress)]
    assert progress[-1].rate < 0.02 * asked.recipe.schedule.rate
    rates = [event.rate for event in progress]
    assert rates == sorted(rates, reverse=True)
    assert progress[-1].iterations == progress[-1].step
    assert progress[-1].step > 28  # the recipe's own length; all of the time is used


def test_a_budget_for_less_than_one_iteration_still_ends(tmp_path):
    *_, finished = pipeline.train(plan(plain(iterations=10), budget=0.01), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert max(line["step"] for line in lines) <= 3
    assert finished.evaluations["last"]["images"] == 60


def test_a_run_with_a_budget_is_resumed_within_it(tmp_path):
    budget = 5.0
    stop, run = Stop(), tmp_path / "run"
    asked = plan(plain(iterations=None, epochs=3), budget=budget)
    began = time.monotonic()
    for event in pipeline.train(asked, run, stop=stop):
        if isinstance(event, Progress) and time.monotonic() - began > 2:
            stop.signal = 15
    *_, finished = pipeline.resume(run)
    assert 0.8 * budget < finished.seconds < 1.2 * budget


# --- held-out images ---


def test_a_validation_split_is_recorded_and_the_best_is_told_from_the_last(tmp_path):
    run = tmp_path / "run"
    # at a rate that stays this high the last weights are hardly the best
    asked = plan(plain(validation=0.2, iterations=40, schedule=Schedule(shape="steps", rate=0.5)))
    events = list(pipeline.train(asked, run))
    split = json.loads((run / "run.json").read_text())["data"]["split"]["held_out"]
    counts = json.loads((run / "run.json").read_text())["data"]["counts"]
    assert counts["train"] + counts["validation"] == 150
    assert len(split["validation"]) == counts["validation"]
    measured = [event for event in events if isinstance(event, Measured)]
    assert {event.split for event in measured} == {"validation"}
    errors = [event.value for event in measured]
    assert [event.best for event in measured] == [
        error < min(errors[:n], default=200) for n, error in enumerate(errors)
    ]
    best, last = load(run / "best.safetensors"), load(run)
    first_best = next(event for event in measured if event.value == min(errors))
    assert best.card.history["weights"] == "best"
    assert best.card.history["iterations"] == first_best.step
    assert (last.card.history["weights"], last.card.history["iterations"]) == ("last", 40)
    held = [few_digits().train.names.index(name) for name in split["validation"]]
    images = few_digits().train.select(torch.tensor(held))
    assert top_k_error(score(best, images, best.card.preprocessing)) == min(errors)
    for name in ("evaluation.json", "evaluation-best.json"):
        assert json.loads((run / name).read_text())["split"] == "test"


def test_the_test_images_never_choose(tmp_path):
    events = list(pipeline.train(plan(), tmp_path / "run"))
    assert {(event.split, event.best) for event in events if isinstance(event, Measured)} == {("test", False)}
    assert not (tmp_path / "run" / "best.safetensors").exists()


def test_data_without_any_held_out_images_gives_weights_and_no_evaluation(tmp_path, monkeypatch):
    monkeypatch.setattr(classification, "open_dataset", lambda where, **named: replace(few_digits(), test=None))
    run = tmp_path / "run"
    *_, finished = pipeline.train(plan(), run)
    assert finished.evaluations == {}
    assert not (run / "evaluation.json").exists()
    assert "top1_error" not in load(run).card.history


def test_a_recipe_may_be_shortened(tmp_path):
    """What experiments do: the paper's schedule, on fewer iterations."""
    short = replace(paper(), iterations=8, batch=16)
    events = list(pipeline.train(plan(short), tmp_path / "run"))
    rates = [event.rate for event in events if isinstance(event, Progress)]
    assert rates == pytest.approx([0.1] * 4 + [0.01] * 2 + [0.001] * 2)


def test_the_speed_that_is_told_is_one_that_was_measured(tmp_path):
    """Also in the first lines, when the clock has just been restarted: no iteration takes less than a millisecond."""
    events = pipeline.train(plan(plain(iterations=6)), tmp_path / "run")
    told = [event.images_per_second for event in events if isinstance(event, Progress)]
    assert len(told) == 6
    assert max(told) < 16 / 0.001


def test_a_batch_may_be_larger_than_the_set(tmp_path, monkeypatch):
    data = few_digits()
    monkeypatch.setattr(
        classification, "open_dataset", lambda where, **named: replace(data, train=data.train.select(torch.arange(7)))
    )
    *_, finished = pipeline.train(plan(recipe(iterations=3)), tmp_path / "run")
    assert isinstance(finished, Finished)


@pytest.mark.parametrize("crop", ["pad", "resized", "none"])
def test_networks_for_photographs_take_images_of_8_pixels(tmp_path, monkeypatch, crop):
    """After five halvings one pixel is left; batch norm then goes by the batch alone."""
    narrow = {"widths": (4, 4, 8, 8), "stem_width": 4}
    monkeypatch.setattr(classification, "describe", lambda name: replace(describe(name), **narrow))
    asked = plan(plain(iterations=2, augmentation=Augmentation(crop=crop)), model="resnet18")
    *_, finished = pipeline.train(asked, tmp_path / "run")
    assert isinstance(finished, Finished)


def test_bfloat16_trains_and_what_it_leaves_is_float32(tmp_path):
    *_, finished = pipeline.train(plan(plain(iterations=40, precision="bfloat16")), tmp_path / "run")
    assert {value.dtype for value in load(tmp_path / "run").state_dict().values()} == {torch.float32, torch.int64}
    assert finished.evaluations["last"]["top1_error"] < 80


# --- files ---


@pytest.fixture
def folder(tmp_path):
    """Forty small pictures in two classes."""
    data = few_digits()
    for place in range(40):
        path = tmp_path / "pictures" / ("even" if int(data.train.labels[place]) % 2 == 0 else "odd") / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(data.train.pixels[place, :, :, 0].numpy()).resize((16, 16)).save(path)
    return tmp_path / "pictures"


@pytest.mark.parametrize("workers", [0, 2])
def test_files_on_disk_train_the_network_of_the_same_images_in_memory(tmp_path, monkeypatch, folder, workers):
    from residual.data import assemble
    from residual.data.sources import open_dataset

    monkeypatch.setattr(classification, "open_dataset", open_dataset)
    asked = plan(recipe(iterations=8), data=str(folder), workers=workers, looks=2)  # each starts the workers anew
    list(pipeline.train(asked, tmp_path / "memory"))
    monkeypatch.setattr(assemble, "MEMORY", 0)
    monkeypatch.setenv("RESIDUAL_CACHE", str(tmp_path / "other"))
    assert isinstance(pipeline.read_data(asked).train, ImageFiles)
    run, stop = tmp_path / "disk", Stop()
    train_until(pipeline.train(asked, run, stop=stop), stop, 3)
    list(pipeline.resume(run))
    one, two = (load(tmp_path / name).state_dict() for name in ("memory", "disk"))
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    best, same = (load(tmp_path / name / "best.safetensors").state_dict() for name in ("memory", "disk"))
    assert all(torch.equal(value, same[name]) for name, value in best.items())


# --- fine-tuning ---


@pytest.fixture
def trained(tmp_path):
    """A finished run on ten digits, and data with three of them, twice as large."""
    list(pipeline.train(plan(plain(iterations=40, std=False, mean="pixel")), tmp_path / "start"))
    return tmp_path / "start"


def three_digits() -> Dataset:
    data = few_digits()

    def part(images):
        chosen = images.select((images.labels < 3).nonzero()[:, 0])
        pixels = chosen.pixels.repeat_interleave(2, 1).repeat_interleave(2, 2)
        return replace(chosen, pixels=pixels, classes=("0", "1", "2"))

    return replace(data, train=part(data.train), test=part(data.test), classes=("0", "1", "2"))


def test_fine_tuning_keeps_the_weights_and_begins_a_new_classifier(tmp_path, monkeypatch, trained):
    monkeypatch.setattr(classification, "open_dataset", lambda where, **named: three_digits())
    asked = plan(plain(name="finetune", schedule=Schedule(shape="linear", rate=1e-9)), model=str(trained))
    list(pipeline.train(asked, tmp_path / "fine"))
    before, after = load(trained), load(tmp_path / "fine")
    for name, value in after.named_parameters():
        if name.startswith("classifier"):
            assert value.shape[0] == 3
        else:
            torch.testing.assert_close(value, before.get_parameter(name), rtol=0, atol=1e-6)
    assert after.card.classes == ("0", "1", "2")
    assert after.card.model.depths == before.card.model.depths
    assert after.card.name == "fine"
    # the colours that the weights know, at the size of the new images
    theirs, ours = before.card.preprocessing, after.card.preprocessing
    assert (ours.size, ours.std) == (16, theirs.std)
    assert ours.mean == pytest.approx([sum(theirs.mean) / 64])


def test_a_fine_tuned_network_is_better_than_one_from_scratch_after_few_steps(tmp_path, monkeypatch, trained):
    monkeypatch.setattr(classification, "open_dataset", lambda where, **named: three_digits())
    few = plain(name="finetune", iterations=8, schedule=Schedule(shape="linear", rate=0.02))
    *_, fine = pipeline.train(plan(few, model=str(trained)), tmp_path / "fine")
    *_, scratch = pipeline.train(plan(replace(few, name="scratch")), tmp_path / "scratch")
    assert fine.evaluations["last"]["top1_error"] < scratch.evaluations["last"]["top1_error"]


def test_a_fine_tuning_goes_on_after_the_weights_it_began_from_are_gone(tmp_path, monkeypatch, trained):
    monkeypatch.setattr(classification, "open_dataset", lambda where, **named: three_digits())
    asked = plan(recipe(name="finetune"), model=str(trained))
    list(pipeline.train(asked, tmp_path / "whole"))
    stop, run = Stop(), tmp_path / "run"
    train_until(pipeline.train(asked, run, stop=stop), stop, 5)
    (trained / "model.safetensors").unlink()
    list(pipeline.resume(run))
    one, two = (load(tmp_path / name).state_dict() for name in ("whole", "run"))
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_the_same_classes_keep_their_classifier():
    torch.manual_seed(0)
    description = replace(describe("resnet8"), widths=(4, 4, 8), stem_width=4)
    start, other = classification.ResNet(description), classification.ResNet(description)
    adopt(other, start, same_classes=True)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in start.state_dict().items())


def test_as_many_other_classes_begin_another_classifier():
    torch.manual_seed(0)
    description = replace(describe("resnet8"), widths=(4, 4, 8), stem_width=4)
    start, other = classification.ResNet(description), classification.ResNet(description)
    adopt(other, start, same_classes=False)
    same = [name for name, value in start.named_parameters() if torch.equal(value, other.get_parameter(name))]
    assert "stem.conv.weight" in same
    assert "classifier.weight" not in same


def test_the_statistics_are_over_no_more_images_at_once_than_memory_holds(tmp_path, monkeypatch):
    """1,000 photographs of 224 pixels at once would take 10 GB."""
    run = classification.Classification(plan(recipe(exact_statistics=100)), tmp_path, Stop(), classification.World())
    list(run.read_data())
    run.build(None)
    sizes = [len(images) for images in run.statistics_batches()]
    assert sizes == [150]
    monkeypatch.setattr(classification, "PIXELS_AT_ONCE", 50 * 64)
    assert [len(images) for images in run.statistics_batches()] == [50, 50]


def test_the_statistics_see_no_image_twice(tmp_path, monkeypatch):
    run = classification.Classification(plan(recipe(exact_statistics=1000)), tmp_path, Stop(), classification.World())
    list(run.read_data())
    run.build(None)
    monkeypatch.setattr(classification, "PIXELS_AT_ONCE", 40 * 64)
    batches, seen = classification.training_batches, []

    def watched(*given, **asked):
        for batch in batches(*given, **asked):
            seen.extend(batch.indices.tolist())
            yield batch

    monkeypatch.setattr(classification, "training_batches", watched)
    assert [len(images) for images in run.statistics_batches()] == [37, 38, 37, 38]
    assert sorted(seen) == list(range(150))


# --- iterations that a GPU would capture ---


def shifted(**changes: object) -> Recipe:
    return recipe(augmentation=Augmentation(crop="pad", pad=1), **changes)


def test_iterations_that_need_nothing_from_the_host_train_alike(tmp_path, monkeypatch):
    list(pipeline.train(plan(shifted()), tmp_path / "one" / "run"))
    monkeypatch.setattr(classification, "GRAPHS", ("cpu",))  # where such iterations run uncaptured
    list(pipeline.train(plan(shifted()), tmp_path / "two" / "run"))
    assert result(tmp_path / "one" / "run") == result(tmp_path / "two" / "run")


def test_such_a_run_resumes_exactly_and_goes_back_when_numbers_turn_bad(tmp_path, monkeypatch):
    monkeypatch.setattr(classification, "GRAPHS", ("cpu",))
    list(pipeline.train(plan(shifted()), tmp_path / "one" / "run"))
    stop = Stop()
    train_until(pipeline.train(plan(shifted()), tmp_path / "two" / "run", stop=stop), stop, 7)
    list(pipeline.resume(tmp_path / "two" / "run"))
    assert result(tmp_path / "one" / "run") == result(tmp_path / "two" / "run")
    with pytest.raises(Diverged, match="again, after going back"):
        list(pipeline.train(plan(shifted(schedule=Schedule(shape="linear", rate=1e30))), tmp_path / "bad"))


@pytest.mark.parametrize(
    "other",
    [recipe(), shifted(accumulate=2), shifted(clip=1.0), shifted(lamb=Lamb(), optimizer=Sgd())],
    ids=["mixed", "in parts", "clipped", "lamb"],
)
def test_what_needs_the_host_is_never_captured(tmp_path, monkeypatch, other: Recipe):
    def refused(*given: object, **named: object) -> None:
        raise AssertionError("captured")

    monkeypatch.setattr(classification, "GRAPHS", ("cpu",))
    monkeypatch.setattr(classification, "fit_resident", refused)
    assert any(isinstance(event, Finished) for event in pipeline.train(plan(other), tmp_path / "run"))


# --- data that has moved ---


def test_a_run_goes_on_exactly_where_its_images_have_moved_to(tmp_path, monkeypatch):
    list(pipeline.train(plan(), tmp_path / "one" / "run"))
    stop, asked = Stop(), []
    train_until(pipeline.train(plan(), tmp_path / "two" / "run", stop=stop), stop, 7)
    monkeypatch.setattr(classification, "open_dataset", lambda where, **named: asked.append(where) or few_digits())
    list(pipeline.resume(tmp_path / "two" / "run", data="elsewhere"))
    assert asked == ["elsewhere"]
    assert result(tmp_path / "one" / "run") == result(tmp_path / "two" / "run")
