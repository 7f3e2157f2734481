"""Two processes here are forks that share a gloo group, as torchrun would start them."""

import itertools
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import torch
from torch import nn

from residual import pipeline
from residual.data.batches import training_batches
from residual.data.transforms import Augmentation, Normalize, Preprocessing, key
from residual.events import Finished, Stopped
from residual.models.catalog import describe
from residual.models.resnet import ResNet
from residual.pipeline import classification
from residual.recipes.recipe import Recipe
from residual.train import distributed
from residual.train.average import WeightAverage
from residual.train.batch_norm import set_batch_norms
from residual.train.distributed import World, share_of
from residual.train.loop import Training, fit
from residual.train.optimizer import Sgd, make_optimizer
from residual.train.precision import Precision
from residual.train.schedule import Schedule
from tests.conftest import some_images

CPU = Precision(torch.device("cpu"), bfloat16=False)


# --- who has what ---


def test_without_torchrun_one_is_alone(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    world = distributed.join(CPU.device)
    assert (world.rank, world.size, world.leads) == (0, 1, True)
    assert distributed.agree(3.5, world) == 3.5
    assert distributed.any_says(True, world)
    assert not distributed.any_says(False, world)
    assert distributed.from_leader(lambda: "made", world) == "made"
    model = nn.Linear(2, 2)
    assert distributed.share(model, world, drops=True) is model
    distributed.leave()


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_shares_are_disjoint_equal_and_all(size):
    positions = torch.arange(100, 100 + 48)
    shares = [World(rank, size, rank).shard(positions) for rank in range(size)]
    assert {len(share) for share in shares} == {48 // size}
    assert torch.equal(torch.cat(shares).sort().values, positions)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_mirror_in_a_share_is_the_mirror_in_the_batch(size):
    positions = torch.arange(12)
    for rank in range(size):
        share = World(rank, size, rank).shard(positions)
        assert torch.equal(share.flip(0), 11 - share)


@pytest.mark.parametrize(("count", "size"), [(7, 2), (6, 2), (10, 4)])
def test_a_batch_that_does_not_divide_into_pairs_is_refused(count, size):
    with pytest.raises(ValueError, match=f"a multiple of {2 * size}"):
        World(0, size).shard(torch.arange(count))


def test_processes_agree_add_up_and_hear_of_each_other(together):
    def work(world):
        order = world.rank
        with distributed.leader_first(world):
            if world.leads:
                time.sleep(0.2)
            order = time.monotonic()
        return {
            "agreed": distributed.agree(10.0 + world.rank, world),
            "total": distributed.total(torch.tensor([1.0, world.rank]), world).tolist(),
            "any": distributed.any_says(world.rank == 1, world),
            "none": distributed.any_says(False, world),
            "made": distributed.from_leader(lambda: {"by": os.environ["RANK"], "tensor": torch.ones(2)}, world),
            "order": order,
        }

    leader, other = together(work)
    assert leader["order"] < other["order"]
    for found in (leader, other):
        assert found["agreed"] == 10
        assert found["total"] == [2, 1]
        assert (found["any"], found["none"]) == (True, False)
        assert found["made"]["by"] == "0"
        assert found["made"]["tensor"].tolist() == [1, 1]


def test_where_the_leader_fails_nobody_waits_for_it(together):
    def work(world):
        caught = []

        def fail():
            raise OSError("the disk is full")

        for attempt in (lambda: distributed.from_leader(fail, world), lambda: first(world)):
            try:
                attempt()
            except Exception as error:
                caught.append(f"{type(error).__name__}: {error}")
        return caught

    def first(world):
        with distributed.leader_first(world):
            raise ValueError(f"no data for {world.rank}")

    assert together(work) == [
        ["OSError: the disk is full", "ValueError: no data for 0"],
        ["ValueError: the leading process failed: the disk is full", "ValueError: no data for 1"],
    ]


def test_over_gloo_processes_may_always_ask_and_gpus_every_tenth_iteration(monkeypatch):
    assert distributed.may_ask(3, World())
    for backend, expected in (("gloo", [1, 2, 9, 10, 11, 20]), ("nccl", [10, 20])):
        monkeypatch.setattr(distributed.dist, "get_backend", lambda backend=backend: backend)
        assert [step for step in (1, 2, 9, 10, 11, 20) if distributed.may_ask(step, World(1, 2, 1))] == expected


@pytest.mark.parametrize(("depth", "group", "apart"), [(0.0, None, True), (0.5, 16, True), (0.5, None, False)])
def test_every_process_drops_otherwise_where_it_can_and_always_the_same(tmp_path, depth, group, apart):
    asked = replace(plan(), recipe=replace(plan().recipe, batch_norm_group=group))

    def seeds(rank: int, size: int) -> list[int]:
        run = classification.Classification(asked, tmp_path, pipeline.Stop(), World(rank, size, rank))
        run.model_description = replace(describe("resnet8"), stochastic_depth=depth)
        return [run.seed_of(step) for step in range(50)]

    assert seeds(0, 4) == seeds(0, 1) == [key(0, step) for step in range(50)]
    assert len({seed for rank in range(4) for seed in seeds(rank, 4)}) == (200 if apart else 50)
    assert seeds(2, 4) == seeds(2, 4)


@pytest.mark.parametrize("group", [None, 8])
def test_two_processes_drop_blocks_and_arrive(together, tmp_path, group):
    dropping = replace(plan().recipe, stochastic_depth=0.8, batch_norm_group=group, iterations=6)
    asked = replace(plan(), recipe=dropping)
    finished, _ = together(lambda world: [type(event) for event in pipeline.train(asked, tmp_path / "run")])
    assert finished[-1] is Finished


def test_a_share_of_a_share_is_a_share_of_the_whole():
    rows = torch.arange(48)
    for outer, inner in ((2, 2), (2, 4), (3, 2), (1, 6)):
        for rank in range(outer):
            for part in range(inner):
                nested = share_of(share_of(rows, rank, outer), part, inner)
                assert nested.tolist() == share_of(rows, rank * inner + part, outer * inner).tolist()


def test_rows_that_do_not_divide_into_parts_of_pairs_are_refused():
    with pytest.raises(ValueError, match="a multiple of 6"):
        share_of(torch.arange(8), 0, 3)


@pytest.mark.parametrize("changes", [{}, {"order": "full"}])
def test_two_processes_that_do_not_synchronise_train_what_one_trains_with_groups(together, changes):
    """The paper's two GPUs of 64 images each, in small: weights, moving averages, momentum, average of the weights."""
    parts = together(lambda world: train(world, 8, torch.float64, group=6, **changes))
    alone = train(World(), 8, torch.float64, group=6, **changes)
    together_all = train(World(), 8, torch.float64, **changes)
    for name, value in parts[0].items():  # the leader's are those that are kept
        torch.testing.assert_close(value, alone[name], rtol=1e-9, atol=1e-9, msg=lambda text, n=name: f"{n}: {text}")
    assert not torch.allclose(alone["model.classifier.weight"], together_all["model.classifier.weight"], rtol=1e-3)


def test_parts_are_exchanged_once_and_train_what_one_process_trains(together):
    """Two processes of two parts each: groups of a quarter of the batch."""
    parts = together(lambda world: train(world, 8, torch.float64, group=3 * 2, count=24, accumulate=2))
    alone = train(World(), 8, torch.float64, group=3 * 2, count=24)
    for name, value in alone.items():
        if "running" not in name and "tracked" not in name:  # of parts, each one moves the moving averages
            torch.testing.assert_close(parts[0][name], value, rtol=1e-9, atol=1e-9)
            assert torch.equal(parts[0][name], parts[1][name])


def test_processes_that_drop_other_blocks_in_other_parts_keep_the_same_weights(together):
    """A block that the last part leaves out still has its gradient from the first, and it is exchanged."""
    settings = {"group": 6, "count": 24, "accumulate": 2, "apart": True, "stochastic_depth": 0.8}
    parts = together(lambda world: train(world, 8, torch.float64, **settings))
    weights = [name for name in parts[0] if "running" not in name and "tracked" not in name]
    assert all(torch.equal(parts[0][name], parts[1][name]) for name in weights)


# --- the same training ---


def train(
    world: World,
    steps: int,
    dtype: torch.dtype,
    *,
    group: int | None = None,
    count: int = 12,
    accumulate: int = 1,
    apart: bool = False,
    **changes: object,
) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = ResNet(replace(describe("resnet8"), widths=(4, 4, 8), stem_width=4, classes=3, image=8, **changes))
    model.to(dtype)
    set_batch_norms(model, group, count // world.size // accumulate, world)
    CPU.place(model)
    average = WeightAverage(model, 0.9)
    shared = distributed.share(model, world, drops=model.description.stochastic_depth > 0)
    training = Training(model, make_optimizer(model, Sgd(nesterov=True, decay_all=False)), average, shared=shared)
    normalize = Normalize(Preprocessing(size=8, mean=(127.0,) * 3, std=(70.0,) * 3))
    batches = training_batches(
        some_images(), Augmentation(pad=1, mixup=0.5, cutmix=0.5), normalize, batch=count, seed=0, start=0,
        device=CPU.device, shard=world.shard,
    )  # fmt: skip

    def loss_of(model, batch):
        logits = model(batch.images.to(dtype))
        loss = nn.functional.cross_entropy(logits, batch.labels)
        partner = nn.functional.cross_entropy(logits, batch.labels.flip(0))
        return batch.share * loss + (1 - batch.share) * partner, {}

    def parts_of(batch):
        names = ("images", "labels", "indices")
        return [
            replace(batch, **{name: share_of(getattr(batch, name), part, accumulate) for name in names})
            for part in range(accumulate)
        ]

    running = fit(
        training, batches, loss_of, lambda step: 0.05, precision=CPU, parts_of=parts_of,
        seed_at=lambda step: key(0, step, world.rank) if apart else key(0, step),
    )  # fmt: skip
    for _ in itertools.islice(running, steps):
        pass
    return {name: value.clone() for name, value in training.tensors().items()}


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 1e-5), (torch.float64, 1e-11)],  # rounding, which training makes ten times as large in few steps
)
@pytest.mark.parametrize("changes", [{}, {"stochastic_depth": 0.8}, {"order": "full"}, {"checkpoint": True}])
def test_two_processes_train_what_one_trains_at_the_same_batch(together, changes, dtype, tolerance):
    """Weights, batch-norm statistics, momentum and weight average after 8 mixed batches."""
    parts = together(lambda world: train(world, 8, dtype, **changes))
    alone = train(World(), 8, dtype, **changes)
    for part in parts:
        assert part.keys() == alone.keys()
        for name, value in part.items():
            torch.testing.assert_close(
                value, alone[name], rtol=tolerance, atol=tolerance, msg=lambda text, n=name: f"{n}: {text}"
            )
    assert all(torch.equal(parts[0][name], parts[1][name]) for name in alone)


def plan() -> pipeline.Plan:
    recipe = Recipe(
        name="two",
        schedule=Schedule(shape="cosine", rate=0.01, warmup_rate=0.002, warmup_error=99.0),
        iterations=12,
        batch=32,
        augmentation=Augmentation(pad=1, flip=False, mixup=0.3),
        average=0.9,
        exact_statistics=200,
        precision="float32",
    )
    return pipeline.Plan(model="resnet8", data="digits", recipe=recipe, device="cpu", workers=0, save_steps=5)


def test_a_run_of_two_processes_is_stopped_resumed_by_them_and_is_that_of_one(together, tmp_path):
    """And only the leader speaks and writes."""

    def begin(world):
        stop, seen = pipeline.Stop(), []
        for event in pipeline.train(plan(), tmp_path / "two", stop=stop):
            seen.append(type(event))
            stop.signal = 15
        return seen

    begun, silent = together(begin)
    finished, also = together(lambda world: [type(event) for event in pipeline.resume(tmp_path / "two")])
    assert Stopped in begun
    assert Finished in finished
    assert silent == also == []
    list(pipeline.train(plan(), tmp_path / "one"))
    one, two = (classification.load(tmp_path / name).state_dict() for name in ("one", "two"))
    for name, value in two.items():
        torch.testing.assert_close(value, one[name], rtol=1e-4, atol=1e-4, msg=lambda text, n=name: f"{n}: {text}")
    lines = [json.loads(line) for line in (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["loss"] for line in lines if "loss" in line}
    for line in (json.loads(line) for line in (tmp_path / "one" / "metrics.jsonl").read_text().splitlines()):
        if "loss" in line:
            assert losses[line["step"]] == pytest.approx(line["loss"], rel=1e-4)


def test_a_run_of_two_can_be_finished_by_one_and_the_other_way_round(together, tmp_path):
    def some_steps(world):
        stop = pipeline.Stop()
        for _ in pipeline.train(plan(), tmp_path / "two", stop=stop):
            stop.signal = 15

    together(some_steps)
    *_, finished = pipeline.resume(tmp_path / "two")
    assert isinstance(finished, Finished)
    stop = pipeline.Stop()
    for _ in pipeline.train(plan(), tmp_path / "one", stop=stop):
        stop.signal = 15
    together(lambda world: [None for _ in pipeline.resume(tmp_path / "one")])
    one, two = (classification.load(tmp_path / name).state_dict() for name in ("one", "two"))
    for name, value in two.items():
        torch.testing.assert_close(value, one[name], rtol=1e-4, atol=1e-4)


def test_what_the_leader_is_refused_ends_all_processes(together, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")

    def work(world):
        try:
            list(pipeline.train(plan(), tmp_path / "run"))
        except ValueError as error:
            return str(error)

    leader, other = together(work)
    assert "already holds a run" in leader
    assert "already holds a run" in other


def test_a_batch_that_cannot_be_shared_is_refused_before_anything_is_written(together, tmp_path):
    odd = replace(plan(), recipe=replace(plan().recipe, batch=30))

    def work(world):
        try:
            list(pipeline.train(odd, tmp_path / "run"))
        except ValueError as error:
            return str(error)

    assert all("multiple of 4" in said for said in together(work))
    assert not (tmp_path / "run").exists()


# --- a process that dies ---

WORK = """
import os, signal, sys
from pathlib import Path

import msgspec

from residual import pipeline
from residual.pipeline import classification

run, plan = Path(sys.argv[1]), msgspec.json.decode(sys.argv[2].encode(), type=pipeline.Plan)
first_life, honest = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0", classification.fit


def fit(*arguments, **named):
    for step in honest(*arguments, **named):
        if first_life and step.number == 8 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        yield step


classification.fit = fit
begun = (run / "run.json").exists()
for _ in pipeline.resume(run) if begun else pipeline.train(plan, run):
    pass
"""


def test_a_node_that_dies_is_replaced_and_the_weights_are_those_of_a_quiet_run(together, tmp_path):
    """torchrun starts all processes again, and they go on from the last checkpoint: step 5, of 12."""
    (tmp_path / "work.py").write_text(WORK)
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    words = [tmp_path / "work.py", tmp_path / "run", msgspec.json.encode(plan()).decode()]
    said = subprocess.run(
        [sys.executable, "-m", *torchrun, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert said.returncode == 0, said.stderr
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "resumed" in line] == [5]
    together(lambda world: [None for _ in pipeline.train(plan(), tmp_path / "quiet")])
    one, two = (classification.load(tmp_path / name).state_dict() for name in ("run", "quiet"))
    assert all(torch.equal(value, two[name]) for name, value in one.items())


# --- docs/cluster.md ---

CLUSTER = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text()


@pytest.mark.parametrize("name", ["resnet50", "resnet152", "wide_resnet101_2"])
def test_the_scaling_plan_counts_the_bytes_of_the_network(name):
    with torch.device("meta"):
        model = ResNet(describe(name))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    sent = [f"{2 * (n - 1) / n * 4 * parameters / 1e6:.1f} MB" for n in (8, 64)]
    assert f"| {parameters:,} | {4 * parameters:,} | {sent[0]} | {sent[1]} |" in CLUSTER


def test_the_scaling_plan_s_times_are_bytes_over_bandwidth_and_its_batch_norms_are_all():
    with torch.device("meta"):
        model = ResNet(describe("resnet50"))
    gradient = 4 * sum(parameter.numel() for parameter in model.parameters())
    for bandwidth in (1.25, 3.125, 12.5, 25, 50):
        times = [1000 * 2 * (n - 1) / n * gradient / (bandwidth * 1e9) for n in (8, 64)]
        assert f"| {bandwidth:g} | {times[0]:.1f} ms | {times[1]:.1f} ms |" in CLUSTER
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert f"{len(norms)} batch norms" in CLUSTER
    assert f"{2 * len(norms)} exchanges" in CLUSTER
    assert f"{sum(module.num_features for module in norms):,} channels" in CLUSTER
