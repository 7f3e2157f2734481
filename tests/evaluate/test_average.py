"""One network from several: the mean of the weights, statistics of the training images."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from residual.data.images import Images
from residual.data.transforms import Augmentation, Normalize, Preprocessing
from residual.evaluate import average
from residual.evaluate.average import averaged, checkpoint_weights, evenly, measure_statistics
from residual.models.catalog import describe
from residual.models.resnet import ResNet
from residual.train.checkpoint import Checkpoints

TINY = replace(describe("resnet8"), widths=(4, 4, 4), stem_width=4)
PREPROCESSING = Preprocessing(size=8, mean=(100, 110, 120), std=(50, 60, 70))


def network(seed: int) -> ResNet:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ResNet(TINY)


def pictures(count: int = 12, side: int = 8) -> Images:
    generator = torch.Generator().manual_seed(0)
    return Images(
        pixels=torch.randint(256, (count, side, side, 3), generator=generator, dtype=torch.uint8),
        labels=torch.arange(count) % 10,
        classes=tuple("abcdefghij"),
        names=tuple(map(str, range(count))),
    )


def test_weights_are_averaged_and_counters_kept():
    states = [network(seed).state_dict() for seed in range(3)]
    states[0]["stem.norm.num_batches_tracked"] += 5
    mean = averaged(states)
    for name, value in mean.items():
        if value.is_floating_point():
            assert torch.allclose(value, sum(state[name] for state in states) / 3, atol=1e-7), name
    assert mean["stem.norm.num_batches_tracked"] == 5
    assert all(torch.equal(value, states[0][name]) for name, value in averaged(states[:1]).items())


def test_networks_that_differ_are_not_averaged():
    other = ResNet(replace(TINY, classes=7)).state_dict()
    with pytest.raises(ValueError, match=r"number 2 differ in classifier\.\w+; .*--ensemble"):
        averaged([network(0).state_dict(), other])


def test_statistics_are_those_of_the_training_images():
    """The first batch norm sees the first convolution: its mean over all pixels, its unbiased variance."""
    model, images = network(0), pictures()
    measure_statistics(model, images, PREPROCESSING)
    with torch.no_grad():
        seen = model.stem.conv(Normalize(PREPROCESSING)(images.pixels)).double()
    assert torch.allclose(model.stem.norm.running_mean.double(), seen.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(model.stem.norm.running_var.double(), seen.var((0, 2, 3)), rtol=1e-4)


def test_larger_stored_images_are_looked_at_in_the_middle_and_never_mixed():
    large, small = pictures(side=12), pictures(side=12)
    small = replace(small, pixels=small.pixels[:, 2:10, 2:10])
    models = [network(0), network(0), network(0)]
    measure_statistics(models[0], large, PREPROCESSING)
    measure_statistics(models[1], small, PREPROCESSING)
    mixing = Augmentation(crop="none", flip=False, mixup=0.5, cutmix=0.5)
    measure_statistics(models[2], small, PREPROCESSING, augmentation=mixing)
    first, *others = ([b.clone() for b in model.buffers()] for model in models)
    assert all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize(
    "count, repeats, sizes", [(90, 1, [13, 13, 14]), (32, 1, [16, 16]), (21, 2, [10, 11]), (10, 1, [10])]
)
def test_as_many_images_as_asked_for_are_seen_each_once(
    count: int, repeats: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch
):
    batches: list[torch.Tensor] = []
    monkeypatch.setattr(average, "set_exact_statistics", lambda model, given: batches.extend(given))
    monkeypatch.setattr(average, "PIXELS_AT_ONCE", 16 * 64)
    as_they_are = Augmentation(crop="none", flip=False, repeats=repeats)
    measure_statistics(network(0), pictures(40), PREPROCESSING, augmentation=as_they_are, count=count)
    assert [len(batch) for batch in batches] == sizes
    assert len({picture.numpy().tobytes() for picture in torch.cat(batches)}) == sum(sizes)


@pytest.mark.parametrize("count, size", [(1, 1), (7, 3), (1151, 1000), (10_000, 83), (9601, 16), (4000, 1000)])
def test_one_pass_is_cut_evenly(count: int, size: int):
    shard = evenly(count, size)
    many = -(-count // size)
    parts = [shard(torch.arange(step * size, (step + 1) * size)) for step in range(many)]
    assert torch.cat(parts).tolist() == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert max(map(len, parts)) <= size


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    """One checkpoint with a moving average, as training leaves it, channels-last."""
    model, mean = (network(seed).to(memory_format=torch.channels_last) for seed in (0, 1))
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in mean.state_dict().items()}
    Checkpoints(tmp_path / "checkpoints", identity="x").save(7, tensors | {"momentum.0": torch.zeros(3)}, {})
    return tmp_path / "checkpoints"


def test_a_checkpoint_holds_the_weights_and_their_moving_average(checkpoints: Path):
    before = sorted(path.name for path in checkpoints.iterdir())
    parts = checkpoint_weights(checkpoints / "step-00000007.safetensors")
    assert list(parts) == ["average", "model"]
    for part, seed in (("model", 0), ("average", 1)):
        assert all(torch.equal(value, parts[part][name]) for name, value in network(seed).state_dict().items())
    assert sorted(path.name for path in checkpoints.iterdir()) == before


def test_a_checkpoint_that_is_not_whole_is_refused(checkpoints: Path):
    data, manifest = checkpoints / "step-00000007.safetensors", checkpoints / "step-00000007.json"
    described = json.loads(manifest.read_text())
    whole = data.read_bytes()
    data.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match="SHA-256 differs"):
        checkpoint_weights(data)
    data.write_bytes(whole)
    manifest.write_text(json.dumps(described | {"axes": {"absent": [0, 1]}}))
    with pytest.raises(ValueError, match="not a checkpoint of this version"):
        checkpoint_weights(data)
    manifest.write_text("{")
    with pytest.raises(ValueError, match="no manifest"):
        checkpoint_weights(data)
