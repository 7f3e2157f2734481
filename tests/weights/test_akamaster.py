"""Somebody else's networks compute the same under our names."""

from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from residual.data.images import Images
from residual.evaluate.error import top_k_error
from residual.evaluate.score import score
from residual.weights import akamaster
from residual.weights.files import BadWeights
from residual.weights.sources import load


class TheirBlock(nn.Module):
    """Two convolutions; where the width doubles, every second pixel between two halves of zero channels."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.stride, self.pad = (1, 0) if c_in == c_out else (2, (c_out - c_in) // 2)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, self.stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        around = x[:, :, :: self.stride, :: self.stride]
        return functional.relu(y + functional.pad(around, (0, 0, 0, 0, self.pad, self.pad)))


class Theirs(nn.Module):
    """Their network, written from its published layout."""

    def __init__(self, blocks: int, classes: int = 10) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*[TheirBlock(16, 16) for _ in range(blocks)])
        self.layer2 = nn.Sequential(*[TheirBlock(32 if i else 16, 32) for i in range(blocks)])
        self.layer3 = nn.Sequential(*[TheirBlock(64 if i else 32, 64) for i in range(blocks)])
        self.linear = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def their_network(blocks: int, classes: int = 10) -> Theirs:
    """With random weights and statistics, so that no channel is like another."""
    net = Theirs(blocks, classes)
    generator = torch.Generator().manual_seed(blocks)
    for name, tensor in net.state_dict().items():
        if tensor.is_floating_point():
            low, high = (0.5, 1.5) if name.endswith(("running_var", "bn1.weight", "bn2.weight")) else (-0.2, 0.2)
            tensor.uniform_(low, high, generator=generator)
    return net.eval()


@pytest.mark.parametrize("blocks, classes", [(1, 10), (3, 10), (2, 7)])
def test_the_converted_network_answers_as_theirs_does(blocks: int, classes: int, tmp_path: Path) -> None:
    theirs = their_network(blocks, classes)
    path = tmp_path / "theirs.th"
    torch.save({"state_dict": nn.DataParallel(theirs).state_dict(), "best_prec1": 90.0}, path)
    ours = load(path)
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, found = theirs(images), ours(images)
    scale = expected.abs().max()
    assert (found - expected).abs().max() <= 1e-5 * scale  # the order of sums differs, nothing else
    assert ours.card.name == f"resnet{6 * blocks + 2}"
    assert not ours.training


def test_without_the_permutation_the_answers_differ() -> None:
    """Guards the test above: option A's zeros do lie elsewhere."""
    theirs = their_network(2)
    tensors, card = akamaster.convert(theirs.state_dict())
    plain = {akamaster.ours(name): tensor for name, tensor in theirs.state_dict().items()}
    assert tensors.keys() == plain.keys()
    assert not torch.equal(tensors["classifier.weight"], plain["classifier.weight"])
    assert card.classes == akamaster.CLASSES


def test_the_channel_orders_are_permutations() -> None:
    orders = akamaster.channel_orders((16, 32, 64))
    for order, width in zip(orders, (16, 32, 64), strict=True):
        assert sorted(order.tolist()) == list(range(width))
    assert orders[1][:16].tolist() == list(range(8, 24))
    assert orders[2][:16].tolist() == list(range(24, 40))


def test_a_file_from_before_batches_were_counted_is_read() -> None:
    state = {n: t for n, t in their_network(1).state_dict().items() if not n.endswith("num_batches_tracked")}
    tensors, _ = akamaster.convert(state)
    assert tensors["stem.norm.num_batches_tracked"] == 0


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda s: s.pop("layer2.0.bn1.running_mean"), "missing"),
        (lambda s: s.pop("layer3.1.conv2.weight"), "missing"),
        (lambda s: s.update({"layer4.0.conv1.weight": torch.zeros(1)}), r"layer4\.0\.conv1\.weight"),
        (lambda s: s.update({"layer2.0.shortcut.0.weight": torch.zeros(1)}), "option A"),
        (lambda s: s.update({"layer1.2.conv1.weight": torch.zeros(16, 16, 3, 3)}), r"\[3, 2, 2\]"),
        (lambda s: s.update({"conv1.weight": torch.zeros(16, 1, 3, 3)}), r"stem\.conv\.weight"),
        (lambda s: s.update({"linear.weight": torch.zeros(10, 128)}), r"classifier\.weight"),
        (lambda s: s.update({"linear.weight": torch.zeros(())}), "classifier"),
        (lambda s: s["layer1.0.conv1.weight"].fill_(float("nan")), "not finite"),
        (lambda s: s["layer1.0.bn1.running_var"].fill_(-1), "negative variance"),
        (lambda s: s.pop("linear.weight"), "no classifier"),
    ],
)
def test_what_is_not_their_network_is_refused(change, reason: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    state = OrderedDict(their_network(2).state_dict())
    change(state)
    path = tmp_path / "x.th"
    torch.save(state, path)
    with pytest.raises(BadWeights, match=reason):
        load(path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_converted_and_told(dtype: torch.dtype, tmp_path: Path) -> None:
    path = tmp_path / "half.th"
    torch.save(their_network(1).to(dtype).state_dict(), path)
    model = load(path)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.card.history["stored_as"] == str(dtype).removeprefix("torch.")


def test_the_published_resnet20_makes_exactly_its_85_mistakes_in_a_thousand(shared_data: Path) -> None:
    model = load(shared_data / "weights" / "resnet20-12fca82f.th", sha256="12fca82f")
    assert top_k_error(score(model, pictures(shared_data / "cifar10_small" / "test"), model.card.preprocessing)) == 8.5


@pytest.mark.reliability
def test_the_published_resnet20_has_its_published_error_on_all_10_000(shared_data: Path) -> None:
    """8.27 %: 9,173 of 10,000.  Needs CIFAR-10's test images, by class, in .data/cifar10_images/test."""
    folder = Path(__file__).parents[2] / ".data" / "cifar10_images" / "test"
    if not folder.is_dir():
        pytest.skip(f"no CIFAR-10 test images in {folder}")
    model = load(shared_data / "weights" / "resnet20-12fca82f.th")
    wrong = score(model, pictures(folder), model.card.preprocessing).wrong
    assert (len(wrong), int(wrong.sum())) == (10_000, 827)


def pictures(folder: Path) -> Images:
    """Folders of PNG files, one per class."""
    files = [(i, path) for i, name in enumerate(akamaster.CLASSES) for path in sorted((folder / name).iterdir())]
    return Images(
        pixels=torch.from_numpy(np.stack([np.asarray(Image.open(path)) for _, path in files])),
        labels=torch.tensor([label for label, _ in files]),
        classes=akamaster.CLASSES,
        names=tuple(path.name for _, path in files),
    )
