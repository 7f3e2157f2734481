from dataclasses import replace

import pytest
import torch
from torch import nn

from residual.analyze.responses import norms_of_3x3, responses
from residual.models.catalog import describe
from residual.models.description import Description
from residual.models.resnet import ResNet

SMALL = replace(describe("resnet20"), depths=(1, 1, 1))


def network(description: Description = SMALL, seed: int = 0) -> ResNet:
    """With batch norms that are not the identity."""
    torch.manual_seed(seed)
    model = ResNet(description)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 2)
            nn.init.normal_(norm.bias)
            nn.init.uniform_(norm.running_var, 0.5, 2)
    return model.eval()


def images(count: int = 12, side: int = 32) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("name", "layers"),
    [("resnet20", 19), ("plain20", 19), ("resnet56", 55), ("resnet110", 109), ("resnet50", 16), ("resnet34", 32)],
)
def test_there_is_one_response_for_each_3x3_convolution(name, layers):
    with torch.device("meta"):
        model = ResNet(describe(name))
    assert len(list(norms_of_3x3(model))) == layers
    assert sum(isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3) for m in model.modules()) == layers


@pytest.mark.parametrize("shortcut", ["A", "B", "C", "none"])
def test_responses_are_those_of_the_definition_worked_out_by_hand(shortcut):
    model, x = network(replace(SMALL, shortcut=shortcut)), images()
    expected = []
    with torch.no_grad():
        y = model.stem.norm(model.stem.conv(x))
        expected.append(y.std(correction=0).item())
        y = y.relu()
        for stage in model.stages:
            for block in stage:
                first = block.norm1(block.conv1(y))
                second = block.norm2(block.conv2(first.relu()))
                expected += [first.std(correction=0).item(), second.std(correction=0).item()]
                y = (second if block.shortcut is None else second + block.shortcut(y)).relu()
    assert responses(model, [x]) == pytest.approx(expected, rel=1e-5)  # float32, summed in another order


def test_how_the_images_are_divided_into_batches_does_not_matter():
    model, x = network(), images()
    assert responses(model, [x]) == pytest.approx(responses(model, [x[:1], x[1:8], x[8:]]), rel=1e-5)


def test_a_layer_whose_scale_is_doubled_responds_twice_as_much_and_those_before_it_do_not():
    model, x = network(), images()
    before = responses(model, [x])
    last = list(norms_of_3x3(model))[-1]
    with torch.no_grad():
        last.weight.mul_(2)
        last.bias.mul_(2)
    after = responses(model, [x])
    assert after[:-1] == before[:-1]
    assert after[-1] == pytest.approx(2 * before[-1], rel=1e-5)


def test_the_network_is_as_it_was_when_it_has_been_looked_at():
    model, x = network().train(), images()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    responses(model, [x])
    assert model.training
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("order", ["bn-after-add", "full"])
def test_an_order_without_batch_norm_before_the_addition_is_refused(order):
    with pytest.raises(ValueError, match="before the addition"):
        responses(network(replace(SMALL, order=order)), [images()])


def test_no_images_are_refused():
    with pytest.raises(ValueError, match="there were none"):
        responses(network(), [])
