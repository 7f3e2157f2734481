import queue
import signal
import sys
from dataclasses import asdict

import pytest
from safetensors.torch import load_file

from residual import pipeline
from residual.data.transforms import Augmentation
from residual.pipeline import Plan, classification
from residual.recipes.recipe import Recipe
from residual.reproduce.jobs import Process, cores, on_ray, processes, strands
from residual.train.schedule import Schedule


def answers(messages: "queue.Queue", count: int) -> list[object]:
    return [messages.get(timeout=60)[1] for _ in range(count)]


def test_there_is_at_least_one_core():
    assert cores() >= 1


def test_ray_is_an_extra_that_is_named_where_it_is_absent(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"pip install 'residual\[sweep\]'"):
        on_ray(2, 1, gpu=False)


def test_a_job_answers_survives_a_wrong_order_and_says_how_it_was_killed(tmp_path):
    messages: queue.Queue = queue.Queue()
    job = processes(1, tmp_path / "log")(messages)
    assert isinstance(job, Process)
    try:
        job.order({"train": "classifier", "plan": {"model": "resnet8"}, "path": str(tmp_path / "run"), "looks": 2})
        (refused,) = answers(messages, 1)
        assert refused["final"], "it would be refused again"
        assert "data" in refused["failed"]
        job.order({"calibrate": {"kinds": ["float32"], "device": "cpu", "seconds": 0.01}})
        (found,) = answers(messages, 1)
        assert found["calibrated"]["learning"]["float32"]
        job.process.send_signal(signal.SIGKILL)
        assert answers(messages, 1) == [None]
        assert "SIGKILL" in job.last_words()
    finally:
        job.end(now=True)


def test_threads_that_share_a_device_train_what_one_after_the_other_does(tmp_path, monkeypatch):
    monkeypatch.setattr(classification, "GRAPHS", ("cpu",))  # iterations that draw nothing from the generator all share
    recipe = Recipe(
        name="side by side",
        schedule=Schedule(shape="linear", rate=0.05),
        iterations=12,
        batch=16,
        augmentation=Augmentation(pad=1, flip=False),
        precision="float32",
    )
    plans = [
        Plan(model="resnet8", data="digits", recipe=recipe, seed=seed, device="cpu", workers=0, looks=1)
        for seed in range(3)
    ]
    for plan in plans:
        list(pipeline.train(plan, tmp_path / "alone" / str(plan.seed)))
    messages: queue.Queue = queue.Queue()
    jobs = [strands("cpu")(messages) for _ in plans]
    for job, plan in zip(jobs, plans, strict=True):
        job.order({"train": "classifier", "plan": asdict(plan), "path": str(tmp_path / "together" / str(plan.seed))})
    ended = 0
    while ended < len(plans):
        _, message = messages.get(timeout=60)
        assert "failed" not in message, message
        ended += message["event"] == "Finished"
    for job in jobs:
        job.end(now=False)
    for plan in plans:
        one, other = (load_file(tmp_path / way / str(plan.seed) / "model.safetensors") for way in ("alone", "together"))
        assert all(one[name].equal(other[name]) for name in one)


def test_a_thread_stops_with_a_checkpoint_when_it_is_told_to(tmp_path):
    recipe = Recipe(name="long", schedule=Schedule(shape="linear", rate=0.05), iterations=100_000, batch=16)
    plan = Plan(model="resnet8", data="digits", recipe=recipe, device="cpu", workers=0)
    messages: queue.Queue = queue.Queue()
    job = strands("cpu")(messages)
    job.order({"train": "classifier", "plan": asdict(plan), "path": str(tmp_path / "run")})
    while messages.get(timeout=60)[1]["event"] != "Progress":
        pass
    job.stop(signal.SIGTERM)
    while (message := messages.get(timeout=60)[1])["event"] != "Stopped":
        assert message["event"] != "Finished"
    job.end(now=True)
    assert list((tmp_path / "run" / "checkpoints").glob(f"step-*{message['step']}.json"))


def test_a_thread_that_dies_says_so():
    messages: queue.Queue = queue.Queue()
    job = strands("cuda:99")(messages)  # a device that no machine has
    assert messages.get(timeout=60) == (job, None)
    assert "its thread has ended" in job.last_words()
    job.end(now=True)
