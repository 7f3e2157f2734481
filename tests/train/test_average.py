import pytest
import torch
from torch import nn

from residual.train.average import WeightAverage, set_exact_statistics


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5))


def disturb(model: nn.Module) -> None:
    """Other weights, statistics and counters."""
    for value in model.state_dict().values():
        value.add_(torch.randn(value.shape) if value.is_floating_point() else 1)


@pytest.mark.parametrize("decay", [0.5, 0.99])
def test_the_average_is_the_formula(decay):
    model = network()
    average = WeightAverage(model, decay)
    expected = {name: value.double().clone() for name, value in model.state_dict().items()}
    for n in range(1, 41):
        disturb(model)
        average.update(model)
        d = min(decay, (1 + n) / (10 + n))
        for name, value in model.state_dict().items():
            floating = value.is_floating_point()
            expected[name] = d * expected[name] + (1 - d) * value.double() if floating else value.double()
    assert average.updates == 40
    for name, value in average.model.state_dict().items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)


def test_an_average_of_every_third_iteration_sees_those_alone():
    often, seldom = WeightAverage(network(), 0.9), WeightAverage(network(), 0.9, every=3)
    model = network()
    for step in range(1, 11):
        disturb(model)
        seldom.saw(model, step)
        if step in (3, 6, 9):
            often.update(model)
    assert seldom.updates == 3
    for name, value in seldom.model.state_dict().items():
        assert torch.equal(value, often.model.state_dict()[name])


def test_the_average_of_equal_weights_is_those_weights():
    model = network()
    average = WeightAverage(model, 0.9)
    for _ in range(10):
        average.update(model)
    for name, value in average.model.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[name])


def test_the_average_is_a_model_of_its_own_that_never_trains():
    model = network()
    average = WeightAverage(model, 0.9)
    assert not average.model.training
    assert not any(parameter.requires_grad for parameter in average.model.parameters())
    before = {name: value.clone() for name, value in average.model.state_dict().items()}
    disturb(model)
    assert all(torch.equal(value, before[name]) for name, value in average.model.state_dict().items())
    assert model.training


def test_exact_statistics_are_those_of_all_images_for_batches_of_one_size():
    """The mean is that of one big batch; the variance is the mean of the batches' own, each unbiased."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.BatchNorm2d(3))
    images = 5 + 3 * torch.randn(32, 3, 6, 6)
    batches = images.split(8)
    set_exact_statistics(model, batches)
    torch.testing.assert_close(model[0].running_mean, images.mean((0, 2, 3)), rtol=1e-6, atol=1e-5)
    variance = torch.stack([batch.var((0, 2, 3)) for batch in batches]).mean(0)
    torch.testing.assert_close(model[0].running_var, variance, rtol=1e-5, atol=1e-5)
    # beside the variance of all at once it misses what the batch means differ by
    torch.testing.assert_close(model[0].running_var, images.var((0, 2, 3)), rtol=0.02, atol=0)


def test_one_batch_gives_its_own_statistics_in_every_layer():
    model = network()
    images = torch.randn(16, 3, 9, 9)
    set_exact_statistics(model, [images])
    x = images
    for layer in model:
        if isinstance(layer, nn.BatchNorm2d):
            torch.testing.assert_close(layer.running_mean, x.mean((0, 2, 3)), rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(layer.running_var, x.var((0, 2, 3)), rtol=1e-5, atol=1e-6)
            layer.eval()
            x = nn.functional.batch_norm(x, None, None, layer.weight, layer.bias, training=True)
        else:
            x = layer(x)


@pytest.mark.parametrize("training", [True, False])
def test_exact_statistics_leave_all_else_as_it_was(training):
    model = network().train(training)
    model[1].momentum = 0.03
    for _ in range(3):
        model.train()(torch.randn(4, 3, 9, 9))
    model.train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    set_exact_statistics(model, torch.randn(20, 3, 9, 9).split(5))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) == ("running" not in name), name
    assert [model[1].momentum, model[4].momentum] == [0.03, 0.1]
    assert [module.training for module in model.modules()] == [training] * 6
    assert all(parameter.grad is None for parameter in model.parameters())


def test_exact_statistics_draw_no_random_numbers_and_drop_nothing():
    model = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm2d(3))
    state = torch.get_rng_state()
    images = torch.ones(8, 3, 4, 4)
    set_exact_statistics(model, [images])
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(model[1].running_mean, torch.ones(3))


def test_statistics_of_no_images_are_not_taken():
    with pytest.raises(AssertionError, match="no images"):
        set_exact_statistics(network(), [])
