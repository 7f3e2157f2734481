"""The whole net: against torchvision, in every catalogued form, and with its activations recomputed."""

import io
from dataclasses import replace

import pytest
import torch
import torchvision
from torch import Tensor, nn

from residual.models.blocks import Block
from residual.models.catalog import catalog, describe
from residual.models.description import Description
from residual.models.resnet import ResNet


def shrunk(name: str, **changes: object) -> Description:
    """The network called `name`, thin and with at most two blocks a stage, for five classes."""
    whole = catalog[name]
    few = tuple(min(blocks, 2) for blocks in whole.depths)
    thin = tuple(4 * (stage + 1) for stage in range(len(few)))
    ours: dict[str, object] = {"depths": few, "widths": thin, "stem_width": 4, "classes": 5}
    return replace(whole, **(ours | changes))  # type: ignore[arg-type]


def gradients(net: ResNet) -> dict[str, Tensor]:
    return {name: parameter.grad for name, parameter in net.named_parameters() if parameter.grad is not None}


# ---- every name


@pytest.mark.parametrize("name", catalog)
def test_a_catalogued_net_learns_and_its_weights_can_be_saved_and_loaded(name):
    torch.manual_seed(0)
    net = ResNet(shrunk(name))
    images = torch.randn(2, 3, 16, 16)
    loss = nn.functional.cross_entropy(net(images), torch.tensor([0, 1]))
    loss.backward()
    assert loss.isfinite()
    assert len(gradients(net)) == len(list(net.parameters()))
    assert all(gradient.isfinite().all() for gradient in gradients(net).values())

    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    other = ResNet(net.description)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other.eval()(images), net.eval()(images))


@pytest.mark.parametrize("name", catalog)
def test_features_are_what_each_stage_hands_on(name):
    net = ResNet(shrunk(name)).eval()
    images = torch.randn(2, 3, 32, 32)
    features = net.features(images)
    first = 8 if net.description.stem == "imagenet" else 32
    sides = [first >> stage for stage in range(len(net.description.outputs))]
    assert [tuple(x.shape) for x in features] == [
        (2, c, side, side) for c, side in zip(net.description.outputs, sides, strict=True)
    ]
    assert torch.equal(net.classify(features[-1].clone()), net(images))


@pytest.mark.parametrize("order", ["original", "relu-before-add", "relu-only", "full"])
def test_the_features_are_not_overwritten_by_later_stages(order):
    net = ResNet(shrunk("resnet20", order=order)).eval()
    images = torch.randn(2, 3, 16, 16)
    features = net.features(images)
    first = net.stages[0](net.stem(images))
    net.classify(features[-1])
    assert torch.equal(features[0], first)


def test_a_plain_net_has_the_parameters_of_its_residual_twin():
    """With option A, name by name: the comparison of the paper is between equals."""
    with torch.device("meta"):
        plain, residual = ResNet(describe("plain56")), ResNet(describe("resnet56"))
    shapes = [{name: p.shape for name, p in net.named_parameters()} for net in (plain, residual)]
    assert shapes[0] == shapes[1]


def test_the_same_seed_gives_the_same_net():
    def build() -> dict[str, Tensor]:
        torch.manual_seed(3)
        return ResNet(shrunk("resnet50")).state_dict()

    assert all(torch.equal(a, b) for a, b in zip(build().values(), build().values(), strict=True))


def test_initial_weights_are_he_normal_fan_out_and_the_rest_is_at_rest():
    torch.manual_seed(0)
    net = ResNet(describe("resnet20"))
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            expected = (2 / (module.out_channels * module.weight[0, 0].numel())) ** 0.5
            error = 4 / (2 * module.weight.numel()) ** 0.5  # four standard errors of a standard deviation
            assert module.weight.std().item() == pytest.approx(expected, rel=error)
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()
    assert (net.classifier.bias == 0).all()


@pytest.mark.parametrize(
    "changes, shape, message",
    [
        ({}, (2, 1, 16, 16), r"shape \(2, 1, 16, 16\), but this network expects \(N, 3, side, side\)"),
        ({}, (3, 16, 16), r"N images of 3 channels and 2 spatial axes"),
        ({"dims": 1}, (2, 3, 16, 16), r"expects \(N, 3, side\)"),
    ],
)
def test_images_of_another_shape_are_refused(changes, shape, message):
    with pytest.raises(ValueError, match=message):
        ResNet(shrunk("resnet20", **changes))(torch.zeros(shape))


# ---- theirs


def renamed(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's names to ours."""
    ours = {}
    for name, tensor in theirs.items():
        parts = name.replace("bn", "norm").split(".")
        if parts[0].startswith("layer"):
            parts[0] = f"stages.{int(parts[0][5:]) - 1}"
            if parts[2] == "downsample":
                parts[2:4] = ["shortcut", ("conv", "norm")[int(parts[3])]]
        else:
            parts[0] = {"conv1": "stem.conv", "norm1": "stem.norm", "fc": "classifier"}[parts[0]]
        ours[".".join(parts)] = tensor
    return ours


def stirred(net: nn.Module) -> nn.Module:
    """BN that is not the identity, in evaluation."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, std=0.1)
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return net.eval()


@pytest.mark.parametrize(
    "theirs, ours",
    [
        ("resnet18", "resnet18"),
        ("resnet34", "resnet34"),
        ("resnet50", "resnet50_v1_5"),
        ("resnet101", "resnet101_v1_5"),
        ("resnet152", "resnet152_v1_5"),
        ("wide_resnet50_2", "wide_resnet50_2"),
        ("resnet50, stride moved", "resnet50"),
    ],
)
def test_given_the_same_weights_torchvision_gives_the_same_logits(theirs, ours):
    """To 1e-5 of the largest logit, in float32."""
    torch.manual_seed(0)
    with torch.device("meta"):
        reference = torchvision.models.get_model(theirs.split(",")[0], weights=None)
        net = ResNet(describe(ours))
    reference.to_empty(device="cpu")
    for module in reference.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.normal_(module.weight, std=(2 / module.weight[0].numel()) ** 0.5)
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.bias)
        if isinstance(module, nn.BatchNorm2d):
            module.num_batches_tracked.zero_()
    if theirs.endswith("moved"):
        for stage in (reference.layer2, reference.layer3, reference.layer4):
            stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    stirred(reference)
    net.load_state_dict(renamed(reference.state_dict()), assign=True)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected, logits = reference(images), net.eval()(images)
    assert (logits - expected).abs().max() <= 1e-5 * expected.abs().max()


# ---- precision


@pytest.mark.parametrize(
    "name",
    [
        "resnet20",
        "resnet110",
        "resnet1202",
        "plain110",
        "preresnet164",
        "preresnet1001",
        "resnet152",
        "preresnet200",
    ],
)
@torch.no_grad()
def test_float32_stays_within_1e_5_of_float64(name):
    """Relative L2 distance of the logits, whole depth, thin stages.

    F is damped, or the sum over a thousand layers overflows.  An untrained net with its own batch statistics
    cannot meet this at all: moving the weights of plain56 by 6e-8 of their size then moves its logits by 7e-4.
    """
    torch.manual_seed(0)
    net = stirred(ResNet(shrunk(name, depths=catalog[name].depths)))
    for block in net.modules():
        if isinstance(block, Block) and block.shortcut is not None:
            last = block.conv3 if hasattr(block, "conv3") else block.conv2
            last.weight.mul_(0.1)
    images = torch.randn(4, 3, 32, 32)
    single = net(images).double()
    double = net.double()(images.double())
    assert (single - double).norm() <= 1e-5 * double.norm()


# ---- one and three spatial axes


@pytest.mark.parametrize("name", ["resnet20", "resnet50", "preresnet164"])
@pytest.mark.parametrize("dims", [1, 2])
def test_a_net_of_one_axis_more_agrees_on_images_that_are_flat_in_it(name, dims):
    """Each kernel laid into the middle row of one that has a row more; (N, C, 1, W) is then (N, C, W)."""
    torch.manual_seed(0)
    flat = ResNet(shrunk(name, dims=dims))
    tall = ResNet(shrunk(name, dims=dims + 1))
    weights = {}
    for (key, wanted), (_, given) in zip(tall.state_dict().items(), flat.state_dict().items(), strict=True):
        if wanted.shape == given.shape:
            weights[key] = given
        else:
            weights[key] = torch.zeros_like(wanted)
            weights[key][:, :, wanted.shape[2] // 2] = given
    tall.load_state_dict(weights)
    images = torch.randn(2, 3, *[16] * dims)
    torch.testing.assert_close(tall(images.unsqueeze(2)), flat(images))


# ---- recomputed activations


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "name, changes",
    [
        ("resnet20", {}),
        ("resnet20", {"stochastic_depth": 0.5}),
        ("resnet20", {"shortcut": "dropout", "order": "relu-only"}),
        ("resnet50", {"order": "bn-after-add"}),
        ("preresnet164", {}),
        ("wide_resnet16_8", {"dropout": 0.3}),
    ],
)
def test_recomputing_activations_changes_no_bit(name, changes, training):
    """Logits, gradients, BN's running statistics and its count of batches, after two steps."""
    nets = []
    for checkpoint in (False, True):
        torch.manual_seed(0)
        net = ResNet(shrunk(name, checkpoint=checkpoint, **changes)).train(training)
        outputs = []
        for _ in range(2):
            outputs.append(net(torch.randn(3, 3, 16, 16)))
            outputs[-1].square().sum().backward()
        nets.append((outputs, gradients(net), dict(net.named_buffers()), torch.get_rng_state()))
    (logits, slopes, statistics, randomness), (logits2, slopes2, statistics2, randomness2) = nets
    assert all(torch.equal(a, b) for a, b in zip(logits, logits2, strict=True))
    assert slopes.keys() == slopes2.keys()
    assert all(torch.equal(slopes[key], slopes2[key]) for key in slopes)
    assert all(torch.equal(statistics[key], statistics2[key]) for key in statistics)
    assert torch.equal(randomness, randomness2)
    if training and not changes.get("stochastic_depth"):
        assert all(n == 2 for key, n in statistics2.items() if key.endswith("num_batches_tracked"))


def test_recomputing_keeps_the_same_statistics_tensors():
    """An optimizer, an average or a checkpoint may hold on to them."""
    net = ResNet(shrunk("resnet20", checkpoint=True))
    before = {key: statistic.data_ptr() for key, statistic in net.named_buffers()}
    net(torch.randn(2, 3, 16, 16)).sum().backward()
    assert {key: statistic.data_ptr() for key, statistic in net.named_buffers()} == before


def test_recomputing_holds_less_between_forward_and_backward():
    def held(checkpoint: bool) -> int:
        """Bytes that autograd keeps for the backward pass, parameters left out."""
        net = ResNet(shrunk("resnet20", depths=(4, 4, 4), checkpoint=checkpoint))
        own = {parameter.data_ptr() for parameter in net.parameters()}
        kept: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            if tensor.data_ptr() not in own:
                kept[tensor.data_ptr()] = tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            output = net(torch.randn(4, 3, 16, 16))
        assert output.requires_grad
        return sum(kept.values())

    assert held(checkpoint=True) < held(checkpoint=False) / 3


# ---- Caffe's pooling


@pytest.mark.parametrize("side", [16, 17, 18, 19])
def test_caffe_pools_without_a_border_and_over_the_edge(side):
    """Every window of 3 that begins inside the map, whatever of it lies inside: by plain slicing."""
    stem = ResNet(shrunk("resnet18", stem_pool="ceil")).eval().stem
    images = torch.randn(2, 3, side, side)
    with torch.no_grad():
        x = torch.relu(stem.norm(stem.conv(images)))
        starts = range(0, x.shape[-1] - 1, 2)
        rows = torch.stack([x[:, :, start : start + 3].amax(2) for start in starts], 2)
        expected = torch.stack([rows[..., start : start + 3].amax(3) for start in starts], 3)
        assert torch.equal(stem(images), expected)
