"""An identity decides whether a checkpoint belongs to a run, so it must not change from version to version."""

from dataclasses import replace

import msgspec
import pytest
import torch

from residual.data.images import Dataset, Images
from residual.data.transforms import Augmentation, Preprocessing
from residual.models.catalog import describe
from residual.recipes.modern import modern_small
from residual.recipes.paper import paper
from residual.recipes.plan import Ground, Plan
from residual.train.precision import Precision


def ground(plan: Plan, **changes: object) -> Ground:
    images = Images(
        pixels=torch.zeros(4, 8, 8, 1, dtype=torch.uint8),
        labels=torch.tensor([0, 1, 0, 1]),
        classes=("a", "b"),
        names=tuple("wxyz"),
    )
    start = Ground(
        plan=plan,
        recipe=plan.recipe,
        model=replace(describe("resnet8"), classes=2, channels=1, image=8),
        data=Dataset(train=images, test=None, validation=None, classes=("a", "b"), origin="four"),
        preprocessing=Preprocessing(size=8, channels="L", mean=(1.0,), std=(2.0,)),
        precision=Precision(torch.device("cpu"), bfloat16=False),
    )
    return replace(start, **changes)


PLAN = Plan(model="resnet8", data="four", recipe=paper())


@pytest.mark.parametrize(
    ("recipe", "identity"),
    [
        (paper(), "96b881eaab066d0f310ee612015d67a54cfb83d323d79357324584a22fdd4229"),
        (modern_small(), "690e26b447567401549bc57cc6aa54041f698d5018e9c95d19a69f9c2fd4acb4"),
    ],
)
def test_identities_are_those_of_the_first_version(recipe, identity):
    assert ground(replace(PLAN, recipe=recipe)).identity() == identity


@pytest.mark.parametrize(
    "changes",
    [
        {"workers": 7},
        {"device": "cpu:0"},
        {"save_steps": 3},
        {"download": True},
        {"tensorboard": True},
        {"budget": 60.0},
        {"changes": {"dropout": 0.0}},
        {"shard_optimizer": True},
    ],
)
def test_what_does_not_decide_the_numbers_is_beside_the_point(changes):
    assert ground(replace(PLAN, **changes)).identity() == ground(PLAN).identity()


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"recipe": paper(110)},
        {"recipe": replace(paper(), batch_norm_group=64)},
        {"recipe": replace(paper(), clip=1.0)},
        {"recipe": replace(paper(), augmentation=Augmentation(erase=0.1))},
    ],
)
def test_what_decides_them_is_not(changes):
    assert ground(replace(PLAN, **changes)).identity() != ground(PLAN).identity()


def test_other_images_another_network_and_another_arithmetic_are_other_runs():
    start = ground(PLAN)
    others = [
        replace(start, model=replace(start.model, widths=(16, 32, 65))),
        replace(start, preprocessing=replace(start.preprocessing, mean=(3.0,))),
        replace(start, precision=Precision(torch.device("cpu"), bfloat16=True)),
        replace(start, data=replace(start.data, train=start.data.train.select(torch.arange(3)))),
    ]
    assert len({start.identity(), *(other.identity() for other in others)}) == 5


def test_an_identity_survives_the_way_through_json():
    as_written = msgspec.json.decode(msgspec.json.encode(PLAN))
    assert ground(msgspec.convert(as_written, Plan)).identity() == ground(PLAN).identity()
