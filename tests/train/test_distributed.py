"""Two processes here are forks that share a gloo group, as torchrun would start them."""

import itertools
import json
import multiprocessing
import os
import socket
import time
import traceback
import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn

from residual import pipeline
from residual.data.batches import training_batches
from residual.data.images import Images
from residual.data.transforms import Augmentation, Normalize, Preprocessing, key
from residual.events import Finished, Stopped
from residual.models.catalog import describe
from residual.models.resnet import ResNet
from residual.recipes.recipe import Recipe
from residual.train import distributed
from residual.train.average import WeightAverage
from residual.train.distributed import SyncedBatchNorm, World, sync_batch_norms
from residual.train.loop import Training, fit
from residual.train.optimizer import Sgd, make_optimizer
from residual.train.precision import Precision
from residual.train.schedule import Schedule

CPU = Precision(torch.device("cpu"), bfloat16=False)


@pytest.fixture
def together(tmp_path):
    """together(work, size=2): what work(world) returned in each of the processes."""

    def run(work, size=2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]

        def body(rank):
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            code = 1
            try:
                torch.save(work(distributed.join(CPU.device)), tmp_path / f"{rank}.pt")
                distributed.leave()
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of forks beside threads
            processes = [multiprocessing.get_context("fork").Process(target=body, args=(r,)) for r in range(size)]
            for process in processes:
                process.start()
        for process in processes:
            process.join(60)
            if process.exitcode is None:
                process.kill()
        assert [process.exitcode for process in processes] == [0] * size
        return [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(size)]

    return run


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


# --- batch norm ---


@pytest.mark.parametrize("shape", [(8, 3), (8, 3, 5), (8, 3, 4, 5), (8, 3, 2, 2, 2)])
def test_batch_norm_of_all_processes_is_batch_norm_of_the_joined_batch(together, shape):
    """Forward, backward, running statistics and evaluation, with unequal shares."""
    torch.manual_seed(0)
    plain = [nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d][len(shape) - 1](3)
    plain = plain.double()
    nn.init.normal_(plain.weight)
    nn.init.normal_(plain.bias)
    x = torch.randn(shape, dtype=torch.float64) * 3 + 5
    upstream = torch.randn(shape, dtype=torch.float64)
    rows = [slice(0, 5), slice(5, 8)]

    def measure(norm, x, upstream):
        x = x.clone().requires_grad_()
        y = norm(x)
        y.backward(upstream)
        return {
            "y": y.detach(),
            "x": x.grad,
            "weight": norm.weight.grad,
            "bias": norm.bias.grad,
            "evaluated": norm.eval()(x).detach(),
            **dict(norm.named_buffers()),
        }

    parts = together(lambda world: measure(sync_batch_norms(plain), x[rows[world.rank]], upstream[rows[world.rank]]))
    whole = measure(plain, x, upstream)
    for name in ("y", "x", "evaluated"):
        torch.testing.assert_close(torch.cat([part[name] for part in parts]), whole[name], rtol=1e-10, atol=1e-10)
    for name in ("weight", "bias"):
        torch.testing.assert_close(sum(part[name] for part in parts), whole[name], rtol=1e-10, atol=1e-10)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        for part in parts:
            torch.testing.assert_close(part[name], whole[name], rtol=1e-10, atol=1e-10)


def test_a_mean_far_from_zero_leaves_the_variance_exact(together):
    """As the difference of two squares, a variance of 1 around 5000 would be noise in float32."""
    x = 5000 + torch.randn(16, 2, 8, 8, generator=torch.Generator().manual_seed(0))

    def work(world):
        norm = sync_batch_norms(nn.BatchNorm2d(2, momentum=1.0))
        norm(x[world.rank * 8 : world.rank * 8 + 8])
        return norm.running_var

    for found in together(work):
        torch.testing.assert_close(found.double(), x.double().var((0, 2, 3)), rtol=1e-4, atol=0)


def test_in_short_format_statistics_stay_long(together):
    x = torch.randn(8, 2, 4, 4).bfloat16()

    def work(world):
        norm = sync_batch_norms(nn.BatchNorm2d(2))
        return norm(x[world.rank * 4 : world.rank * 4 + 4]).dtype, norm.running_mean.dtype

    assert together(work) == [(torch.bfloat16, torch.float32)] * 2


def test_synchronising_keeps_names_parameters_and_averages():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    names, weight = list(model.state_dict()), model[1].weight
    sync_batch_norms(model)
    assert isinstance(model[1], SyncedBatchNorm)
    assert list(model.state_dict()) == names
    assert model[1].weight is weight


# --- the same training ---


def some_images() -> Images:
    generator = torch.Generator().manual_seed(0)
    return Images(
        pixels=torch.randint(0, 256, (30, 8, 8, 3), dtype=torch.uint8, generator=generator),
        labels=torch.arange(30) % 3,
        classes=("a", "b", "c"),
        names=tuple(map(str, range(30))),
    )


def train(world: World, steps: int, dtype: torch.dtype, **changes: object) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = ResNet(replace(describe("resnet8"), widths=(4, 4, 8), stem_width=4, classes=3, image=8, **changes))
    model.to(dtype)
    if world.size > 1:
        sync_batch_norms(model)
    CPU.place(model)
    average = WeightAverage(model, 0.9)
    shared = distributed.share(model, world, drops=model.description.stochastic_depth > 0)
    training = Training(model, make_optimizer(model, Sgd(nesterov=True, decay_all=False)), average, shared=shared)
    normalize = Normalize(Preprocessing(size=8, mean=(127.0,) * 3, std=(70.0,) * 3))
    batches = training_batches(
        some_images(), Augmentation(pad=1, mixup=0.5, cutmix=0.5), normalize, batch=12, seed=0, start=0,
        device=CPU.device, shard=world.shard,
    )  # fmt: skip

    def loss_of(model, batch):
        logits = model(batch.images.to(dtype))
        loss = nn.functional.cross_entropy(logits, batch.labels)
        partner = nn.functional.cross_entropy(logits, batch.labels.flip(0))
        return batch.share * loss + (1 - batch.share) * partner, {}

    running = fit(training, batches, loss_of, lambda step: 0.05, seed_at=lambda step: key(0, step), precision=CPU)
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
    one, two = (pipeline.load(tmp_path / name).state_dict() for name in ("one", "two"))
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
    one, two = (pipeline.load(tmp_path / name).state_dict() for name in ("one", "two"))
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
