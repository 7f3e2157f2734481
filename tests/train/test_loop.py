import copy
import itertools
import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from residual.data.batches import training_batches
from residual.data.transforms import Augmentation, Normalize, Preprocessing, key
from residual.models.catalog import describe
from residual.models.resnet import ResNet
from residual.train.average import WeightAverage
from residual.train.batch_norm import group_batch_norms
from residual.train.checkpoint import Checkpoints
from residual.train.distributed import share_of
from residual.train.loop import NonFinite, Training, fit
from residual.train.optimizer import Sgd, make_optimizer
from residual.train.precision import Precision
from tests.conftest import some_images

CPU = Precision(torch.device("cpu"), bfloat16=False)
AUGMENTATION = Augmentation(pad=1, mixup=0.5)


def network(**changes: object) -> ResNet:
    torch.manual_seed(0)
    return ResNet(replace(describe("resnet8"), widths=(4, 4, 8), stem_width=4, classes=3, image=8, **changes))


def training(sgd: Sgd | None = None, *, average: float | None = 0.9, **changes: object) -> Training:
    model = CPU.place(network(**changes))
    optimizer = make_optimizer(model, sgd or Sgd(nesterov=True, decay_all=False))
    return Training(model, optimizer, None if average is None else WeightAverage(model, average))


def loss_of(model, batch):
    logits = model(batch.images)
    loss = nn.functional.cross_entropy(logits, batch.labels)
    partner = nn.functional.cross_entropy(logits, batch.labels.flip(0))
    return batch.share * loss + (1 - batch.share) * partner, {"wrong": (logits.argmax(1) != batch.labels).sum()}


def some_batches(augmentation: Augmentation, start: int):
    normalize = Normalize(Preprocessing(size=8, mean=(127.0,) * 3, std=(70.0,) * 3))
    return training_batches(some_images(), augmentation, normalize, batch=8, seed=0, start=start, device=CPU.device)


def steps(what: Training, *, loss=loss_of, **rest):
    batches = some_batches(AUGMENTATION, what.step)
    return fit(
        what, batches, loss, lambda step: 0.1 / (1 + step), seed_at=lambda step: key(0, step), precision=CPU, **rest
    )


def train(what: Training, until: int) -> list[float]:
    return [float(step.loss) for step in itertools.islice(steps(what), until - what.step)]


def fingerprint(what: Training) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in what.tensors().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


# Everything random that there is: crop, flip and mixup by AUGMENTATION, dropout and stochastic depth inside.
RANDOM = {"dropout": 0.3, "stochastic_depth": 0.5}


# --- the loop ---


def test_steps_are_numbered_from_1_and_carry_rate_loss_and_measures():
    found = list(itertools.islice(steps(training()), 3))
    assert [step.number for step in found] == [1, 2, 3]
    assert [step.rate for step in found] == [0.1, 0.05, 0.1 / 3]
    assert all(step.loss.ndim == 0 and not step.loss.requires_grad for step in found)
    assert all(0 <= int(step.measures["wrong"]) <= 8 for step in found)


def test_nothing_happens_before_the_first_step_is_asked_for():
    what = training()
    before = fingerprint(what)
    steps(what)
    assert same(before, fingerprint(what))


def test_a_step_is_forward_backward_and_the_optimizer():
    what = training(average=None)
    model = copy.deepcopy(what.model)
    optimizer = make_optimizer(model, Sgd(nesterov=True, decay_all=False))
    for number, batch in enumerate(itertools.islice(some_batches(AUGMENTATION, 0), 4)):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 / (1 + number)
        optimizer.zero_grad()
        loss_of(model, batch)[0].backward()
        optimizer.step()
    train(what, 4)
    assert same(dict(what.model.state_dict()), dict(model.state_dict()))


# --- parts of a batch ---


def halves_and_more(parts: int):
    def parts_of(batch):
        names = ("images", "labels", "indices")
        return [
            replace(batch, **{name: share_of(getattr(batch, name), part, parts) for name in names})
            for part in range(parts)
        ]

    return parts_of


@pytest.mark.parametrize("parts", [2, 4])
def test_parts_one_after_another_take_the_step_of_the_whole_batch(parts):
    """Of mixed images, where batch norm does not take statistics: it would take them of a part."""

    def trained(**rest) -> tuple[Training, list[float], list[int]]:
        what = training()
        what.model.double()
        what = Training(what.model, make_optimizer(what.model, Sgd()), WeightAverage(what.model, 0.9))
        for norm in (module for module in what.model.modules() if isinstance(module, nn.BatchNorm2d)):
            norm.train = lambda mode=True, norm=norm: norm  # fixed, whatever the loop sets
            norm.training = False

        def loss(model, batch):
            return loss_of(model, replace(batch, images=batch.images.double()))

        found = list(itertools.islice(steps(what, loss=loss, **rest), 6))
        return what, [float(step.loss) for step in found], [int(step.measures["wrong"]) for step in found]

    whole, losses, wrong = trained()
    parted, part_losses, part_wrong = trained(parts_of=halves_and_more(parts))
    assert part_losses == pytest.approx(losses, rel=1e-12)
    assert part_wrong == wrong
    for name, value in whole.tensors().items():
        torch.testing.assert_close(parted.tensors()[name], value, rtol=1e-11, atol=1e-12)


def test_with_batch_norm_parts_are_groups_of_the_whole_batch():
    """What it sees of a part it sees of a group: only the moving averages go by the first group alone."""
    parted, grouped = training(average=None), training(average=None)
    group_batch_norms(grouped.model, 2)
    for _ in itertools.islice(zip(steps(parted, parts_of=halves_and_more(2)), steps(grouped), strict=True), 6):
        pass
    for (name, one), (_, other) in zip(parted.model.named_parameters(), grouped.model.named_parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")


def test_stopped_between_batches_of_parts_a_training_goes_on_bit_for_bit():
    whole, cut = training(**RANDOM), training(**RANDOM)
    for _ in itertools.islice(steps(whole, parts_of=halves_and_more(2)), 6):
        pass
    for _ in itertools.islice(steps(cut, parts_of=halves_and_more(2)), 3):
        pass
    other = training(**RANDOM)
    other.load(cut.tensors(), json.loads(json.dumps(cut.state())))
    for _ in itertools.islice(steps(other, parts_of=halves_and_more(2)), 3):
        pass
    assert same(fingerprint(whole), fingerprint(other))


# --- clipping ---


@pytest.mark.parametrize("clip", [1e-3, 0.1, 1e9])
def test_a_gradient_is_shortened_to_the_longest_that_is_allowed(clip):
    clipped, reference = training(Sgd(momentum=0.0, decay=0.0), average=None), training(average=None)
    before = fingerprint(clipped)
    (step,) = itertools.islice(steps(clipped, clip=clip), 1)
    batch = next(some_batches(AUGMENTATION, 0))
    reference.model.train()
    loss_of(reference.model, batch)[0].backward()
    nn.utils.clip_grad_norm_(reference.model.parameters(), clip)
    for name, parameter in reference.model.named_parameters():
        moved = before[f"model.{name}"] - clipped.model.get_parameter(name)
        torch.testing.assert_close(moved, step.rate * parameter.grad, rtol=1e-3, atol=1e-7)


def test_evaluation_between_steps_does_not_change_the_training():
    undisturbed, disturbed = training(**RANDOM), training(**RANDOM)
    train(undisturbed, 6)
    for _ in itertools.islice(steps(disturbed), 6):
        disturbed.model.eval()
        disturbed.model(torch.randn(2, 3, 8, 8))
    assert same(fingerprint(undisturbed), fingerprint(disturbed))


def test_one_batch_can_be_learnt_by_heart():
    what = training(average=None)
    batch = next(some_batches(Augmentation(crop="none", flip=False), 0))
    rate = dict.fromkeys(range(60), 0.05)
    losses = [
        float(step.loss)
        for step in fit(
            what, itertools.repeat(batch, 60), loss_of, rate.__getitem__, seed_at=lambda step: step, precision=CPU
        )
    ]
    assert losses[-1] < 0.1 * losses[0]


# --- numbers that are not finite ---


def poisoned(step, how):
    """loss_of, whose loss or gradient is bad at one step, counted from 1."""
    count = itertools.count(1)

    def loss(model, batch):
        value, measures = loss_of(model, batch)
        if next(count) == step:
            if how == "loss":
                value = value * torch.tensor(float("nan"))
            else:
                next(iter(model.parameters())).register_hook(lambda gradient: gradient + float("inf"))
        return value, measures

    return loss


@pytest.mark.parametrize("how", ["loss", "gradient"])
def test_a_bad_number_is_refused_before_a_weight_a_momentum_or_the_average_changes(how):
    what = training()
    running = steps(what, loss=poisoned(3, how))
    next(running), next(running)
    before = fingerprint(what)
    with pytest.raises(NonFinite, match="iteration 3 is not finite") as caught:
        next(running)
    assert caught.value.step == 3
    assert what.step == 2
    changed = {name for name, value in fingerprint(what).items() if not torch.equal(value, before[name])}
    assert all("running" in name or "num_batches" in name for name in changed)  # batch norm saw the images
    assert not any(name.startswith("average") for name in changed)


def test_where_looking_costs_a_wait_it_is_refused_a_little_later():
    what = training()
    with pytest.raises(NonFinite) as caught:
        list(itertools.islice(steps(what, loss=poisoned(3, "gradient"), check_every=5), 10))
    assert caught.value.step == 5
    assert what.step == 4


def test_between_the_looks_one_can_ask():
    what = training()
    running = steps(what, loss=poisoned(3, "gradient"), check_every=50)
    next(running), next(running)
    assert what.is_finite()
    what.refuse_non_finite()
    next(running)
    assert not what.is_finite()
    with pytest.raises(NonFinite):
        what.refuse_non_finite()
    what.load(*saved(training()))
    assert what.is_finite()


@pytest.mark.parametrize("average", [None, 0.9])
def test_what_a_training_ends_with_is_the_average_where_there_is_one(average):
    what = training(average=average)
    train(what, 3)
    expected = what.model if average is None else what.average.model
    assert same(what.result(what.tensors()), expected.state_dict())


# --- saving and going on ---


def saved(what: Training) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    """Tensors and state as a checkpoint gives them back: copies, and JSON."""
    return fingerprint(what), json.loads(json.dumps(what.state()))


@pytest.mark.parametrize("stopped", [0, 1, 3, 5, 7])
def test_going_on_after_any_step_is_bit_for_bit_never_having_stopped(stopped, tmp_path):
    """With crop, flip, mixup, dropout, stochastic depth, Nesterov momentum and an average of the weights."""
    whole = training(**RANDOM)
    losses = train(whole, 9)
    first = training(**RANDOM)
    train(first, stopped)
    checkpoints = Checkpoints(tmp_path, identity="test")
    checkpoints.save(first.step, first.tensors(), first.state())
    again = training(**RANDOM)
    disturbed = torch.randn(3)  # whatever the random state is
    newest = Checkpoints(tmp_path, identity="test").newest()
    again.load(newest.tensors, newest.state)
    assert again.step == stopped
    assert train(again, 9) == losses[stopped:]
    assert same(fingerprint(whole), fingerprint(again))
    assert whole.state() == again.state()
    assert disturbed.isfinite().all()


def test_loading_is_the_inverse_of_saving():
    what = training(**RANDOM)
    train(what, 4)
    tensors, state = saved(what)
    other = training(**RANDOM)
    other.load(tensors, state)
    assert same(fingerprint(other), tensors)
    assert json.loads(json.dumps(other.state())) == state


def test_what_was_loaded_is_not_changed_by_going_on():
    what = training()
    train(what, 2)
    tensors, state = saved(what)
    kept = {name: value.clone() for name, value in tensors.items()}
    other = training()
    other.load(tensors, state)
    train(other, 4)
    assert same(tensors, kept)


def test_momentum_in_another_memory_order_is_put_right():
    """PyTorch's fused SGD on the CPU mixes up values where weights and momentum lie differently."""
    whole, first, again = training(), training(), training()
    train(whole, 6)
    train(first, 3)
    tensors, state = saved(first)
    again.load({name: value.contiguous() for name, value in tensors.items()}, state)
    train(again, 6)
    assert same(fingerprint(whole), fingerprint(again))


@pytest.mark.parametrize("sgd", [Sgd(momentum=0.0), Sgd(decay_all=False), Sgd(decay_all=True)])
@pytest.mark.parametrize("average", [None, 0.9])
def test_every_kind_of_training_can_be_resumed(sgd, average):
    whole, first, again = (training(sgd, average=average) for _ in range(3))
    train(whole, 4)
    train(first, 2)
    again.load(*saved(first))
    train(again, 4)
    assert same(fingerprint(whole), fingerprint(again))


def test_a_block_that_was_dropped_at_first_trains_later_and_can_be_resumed_before():
    whole, first, again = (training(stochastic_depth=0.9) for _ in range(3))
    train(first, 1)
    assert any(parameter.grad is None for parameter in first.model.parameters())  # the test needs such a seed
    train(whole, 40)
    assert all(bool(value.any()) for name, value in whole.tensors().items() if name.startswith("optimizer"))
    again.load(*saved(first))
    train(again, 40)
    assert same(fingerprint(whole), fingerprint(again))


def test_a_training_without_any_one_of_its_tensors_is_refused_and_nothing_changes():
    what = training()
    train(what, 2)
    tensors, state = saved(what)
    other = training()
    before = fingerprint(other)
    for name in tensors:
        with pytest.raises(ValueError, match="differ by 1 tensors"):
            other.load({n: value for n, value in tensors.items() if n != name}, state)
    for name in tensors:
        with pytest.raises(ValueError, match="of shape"):
            other.load(tensors | {name: torch.zeros(*tensors[name].shape, 2)}, state)
    assert same(fingerprint(other), before)
    assert other.step == 0


@pytest.mark.parametrize("name", ["step", "groups", "average_updates"])
def test_a_training_without_any_one_of_its_numbers_is_refused(name):
    tensors, state = saved(training())
    del state[name]
    with pytest.raises(ValueError, match=name):
        training().load(tensors, state)


@pytest.mark.parametrize("name", ["model.extra", "average.extra", "optimizer.99.momentum_buffer", "scaler.growth"])
def test_a_tensor_that_nobody_knows_is_refused(name):
    what = training()
    train(what, 1)
    tensors, state = saved(what)
    with pytest.raises(ValueError, match="differ by 1 tensors"):
        training().load(tensors | {name: torch.zeros(1)}, state)


def test_strangers_are_refused():
    what = training()
    train(what, 1)
    tensors, state = saved(what)
    with pytest.raises(ValueError, match="average"):
        training(average=None).load(tensors, state)
    with pytest.raises(ValueError, match="the optimizer was saved with"):
        training(Sgd(momentum=0.8, decay_all=False, nesterov=True)).load(tensors, state)
    with pytest.raises(ValueError, match="differ by"):
        training(order="full").load(tensors, state)
