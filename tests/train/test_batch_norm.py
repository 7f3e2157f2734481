import pytest
import torch
from torch import nn

from residual.train.batch_norm import SyncedBatchNorm, group_batch_norms, set_batch_norms, sync_batch_norms
from residual.train.distributed import World, share_of


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


@pytest.mark.parametrize("shape", [(12, 3), (12, 3, 5), (12, 3, 4, 5), (12, 3, 2, 2, 2)])
@pytest.mark.parametrize("groups", [1, 2, 3])
def test_groups_are_normalised_each_by_its_own_statistics(shape, groups):
    torch.manual_seed(0)
    kind = [nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d][len(shape) - 1]
    plain, grouped = kind(3).double(), kind(3).double()
    nn.init.normal_(plain.weight)
    grouped.load_state_dict(plain.state_dict())
    group_batch_norms(grouped, groups)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    y = grouped(x)
    rows = torch.arange(12)
    for number in range(groups):
        chosen = share_of(rows, number, groups)
        torch.testing.assert_close(y[chosen], plain(x[chosen]))
        if number == 0:
            assert torch.equal(grouped.running_mean, plain.running_mean)
            assert torch.equal(grouped.running_var, plain.running_var)
    assert grouped.num_batches_tracked == 1
    y.sum().backward()
    torch.testing.assert_close(x.grad, torch.zeros_like(x), atol=1e-12, rtol=0)
    plain.load_state_dict(grouped.state_dict())
    assert torch.equal(grouped.eval()(x), plain.eval()(x))


def test_groups_larger_than_what_a_process_sees_at_once_are_refused():
    model = nn.BatchNorm2d(2)
    with pytest.raises(ValueError, match=r"batch norm over 64 images .* each of 4 processes passes 32"):
        set_batch_norms(model, 64, 32, World(0, 4))
    assert type(set_batch_norms(model, None, 32, World())) is nn.BatchNorm2d
