"""Two processes here are forks that share a gloo group, as torchrun would start them."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from torch import nn

from residual import pipeline
from residual.data.transforms import Augmentation
from residual.pipeline import classification
from residual.recipes.recipe import Recipe
from residual.train import distributed
from residual.train.distributed import World
from residual.train.loop import Training, fit
from residual.train.optimizer import Lamb, Sgd, make_optimizer
from residual.train.precision import Precision
from residual.train.schedule import Schedule
from residual.train.sharded import ShardedState

CPU = Precision(torch.device("cpu"), bfloat16=False)
RULES = [Sgd(nesterov=True, decay_all=False), Lamb(decay=0.02)]


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 5)]
    return CPU.place(nn.Sequential(*layers))


def loss_of(model, images):
    return model(images).square().mean(), {}


def train(training: Training, world: World, steps: int) -> None:
    generator = torch.Generator().manual_seed(world.rank)
    batches = [torch.randn(4, 3, 8, 8, generator=generator) for _ in range(10)][training.step : training.step + steps]
    for _ in fit(training, batches, loss_of, lambda step: 0.1 / (1 + step), seed_at=hash, precision=CPU):
        pass


def begin(rule, world: World) -> Training:
    model = network()
    return Training(model, make_optimizer(model, rule), shared=distributed.share(model, world, drops=False))


def bytes_of(training: Training) -> int:
    states = training.optimizer.state.values()
    return sum(v.numel() * v.element_size() for state in states for v in state.values() if v.device.type != "meta")


def same_weights(one: Training, other: Training) -> bool:
    return all(torch.equal(p, q) for p, q in zip(one.model.parameters(), other.model.parameters(), strict=True))


@pytest.mark.parametrize("rule", RULES)
def test_shares_take_the_steps_of_the_whole_bit_for_bit_in_half_the_memory(together, rule):
    def work(world):
        whole, parted = begin(rule, world), begin(rule, world)
        sharded = ShardedState(parted.optimizer, world)
        sizes = bytes_of(parted), bytes_of(whole)
        train(whole, world, 6)
        train(parted, world, 6)
        assert sizes == (bytes_of(parted), bytes_of(whole))
        sharded.gather()
        same = None
        if world.leads:
            one, other = whole.tensors(), parted.tensors()
            same = one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())
        weights = all(
            torch.equal(p, q) for p, q in zip(whole.model.parameters(), parted.model.parameters(), strict=True)
        )
        sharded.forget()
        assert bytes_of(parted) == sizes[0]
        return sizes, same, weights

    (first, same, weights), (second, _, also) = together(work)
    assert same
    assert weights
    assert also
    assert first[0] + second[0] == first[1] == second[1]
    assert max(first[0], second[0]) < 0.75 * first[1]


def test_what_was_gathered_goes_on_in_shares_and_whole(together):
    def work(world):
        parted, other, whole = (begin(RULES[1], world) for _ in range(3))
        sharded = ShardedState(parted.optimizer, world)
        ShardedState(other.optimizer, world)
        train(parted, world, 3)
        sharded.gather()
        kept = {name: value.clone() for name, value in parted.tensors().items()} if world.leads else None
        kept, state = distributed.from_leader(lambda: (kept, json.loads(json.dumps(parted.state()))), world)
        sharded.forget()
        for training in (other, whole):
            training.load(kept, state)
        for training in (parted, other, whole):
            train(training, world, 3)
        return [[p.detach().clone() for p in training.model.parameters()] for training in (parted, other, whole)]

    for found in together(work):
        assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(*found, strict=True))


def test_a_sharded_run_is_stopped_resumed_by_two_or_one_and_ends_as_a_whole_one(together, tmp_path):
    recipe = Recipe(
        name="shared",
        schedule=Schedule(shape="cosine", rate=0.01),
        iterations=12,
        batch=32,
        augmentation=Augmentation(pad=1, flip=False),
        validation=0.1,  # so that the leader alone decides to save, when it finds the best error
        precision="float32",
    )
    plan = pipeline.Plan(model="resnet8", data="digits", recipe=recipe, device="cpu", workers=0, save_steps=5, looks=3)
    sharded = replace(plan, shard_optimizer=True)

    def begin(world, name: str) -> None:
        stop = pipeline.Stop()
        for _ in pipeline.train(sharded, tmp_path / name, stop=stop):
            stop.signal = 15

    together(lambda world: list(pipeline.train(plan, tmp_path / "whole")) and None)
    together(lambda world: begin(world, "two"))
    shutil.copytree(tmp_path / "two", tmp_path / "one")
    together(lambda world: list(pipeline.resume(tmp_path / "two")) and None)
    list(pipeline.resume(tmp_path / "one"))
    whole, two, one = (classification.load(tmp_path / name).state_dict() for name in ("whole", "two", "one"))
    assert all(torch.equal(value, two[name]) for name, value in whole.items())
    for name, value in whole.items():
        torch.testing.assert_close(value, one[name], rtol=1e-4, atol=1e-4)
