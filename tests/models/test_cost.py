"""Parameters and multiply-adds, by arithmetic and by the built net, against counts made from the papers."""

from dataclasses import replace
from typing import get_args

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from residual.models import cost
from residual.models.catalog import catalog, describe
from residual.models.description import Description, Order, Shortcut
from residual.models.resnet import ResNet


def variant(name: str, **changes: object) -> Description:
    return replace(describe(name), **changes)  # type: ignore[arg-type]


# parameters and multiply-adds of one image: 224 pixels, 1000 classes; CIFAR 32 pixels, 10 classes
COUNTS = {
    "resnet18, option A": (variant("resnet18", shortcut="A"), 11_515_688, 1_794_805_760),
    "resnet18": (variant("resnet18"), 11_689_512, 1_814_073_344),
    "resnet18, option C": (variant("resnet18", shortcut="C"), 12_043_816, 1_878_298_624),
    "plain18": (variant("plain18"), 11_515_688, 1_794_805_760),
    "resnet34, option A": (variant("resnet34", shortcut="A"), 21_623_848, 3_644_493_824),
    "resnet34": (variant("resnet34"), 21_797_672, 3_663_761_408),
    "resnet34, option C": (variant("resnet34", shortcut="C"), 22_716_840, 3_830_747_136),
    "plain34": (variant("plain34"), 21_623_848, 3_644_493_824),
    "resnet50": (variant("resnet50"), 25_557_032, 3_857_973_248),
    "resnet50_v1_5": (variant("resnet50_v1_5"), 25_557_032, 4_089_184_256),
    "resnet50, option C": (variant("resnet50", shortcut="C"), 40_128_552, 6_324_224_000),
    "plain50": (variant("plain50"), 22_780_456, 3_498_311_680),
    "resnet101": (variant("resnet101"), 44_549_160, 7_570_194_432),
    "resnet101_v1_5": (variant("resnet101_v1_5"), 44_549_160, 7_801_405_440),
    "resnet101, option C": (variant("resnet101", shortcut="C"), 76_981_288, 13_530_300_416),
    "plain101": (variant("plain101"), 41_772_584, 7_210_532_864),
    "resnet152": (variant("resnet152"), 60_192_808, 11_282_415_616),
    "resnet152_v1_5": (variant("resnet152_v1_5"), 60_192_808, 11_513_626_624),
    "resnet152, option C": (variant("resnet152", shortcut="C"), 107_335_720, 20_736_376_832),
    "plain152": (variant("plain152"), 57_416_232, 10_922_754_048),
    "resnet50 of the Caffe release": (variant("resnet50", stem_bias=True), 25_557_096, 3_857_973_248),
    "preresnet200": (variant("preresnet200"), 64_666_152, 15_007_481_856),
    "resnet200, post-activation": (
        variant("preresnet200", order="original", stride_in="first"),
        64_673_832,
        14_776_270_848,
    ),
    "wide_resnet50_2": (variant("wide_resnet50_2"), 68_883_240, 11_398_021_120),
    "wide_resnet101_2": (variant("wide_resnet101_2"), 126_886_696, 22_753_050_624),
    "resnet20": (variant("resnet20"), 269_722, 40_551_040),
    "plain20": (variant("plain20"), 269_722, 40_551_040),
    "resnet20, option B": (variant("resnet20", shortcut="B"), 272_474, 40_813_184),
    "resnet32": (variant("resnet32"), 464_154, 68_862_592),
    "plain32": (variant("plain32"), 464_154, 68_862_592),
    "resnet32, option B": (variant("resnet32", shortcut="B"), 466_906, 69_124_736),
    "resnet44": (variant("resnet44"), 658_586, 97_174_144),
    "plain44": (variant("plain44"), 658_586, 97_174_144),
    "resnet44, option B": (variant("resnet44", shortcut="B"), 661_338, 97_436_288),
    "resnet56": (variant("resnet56"), 853_018, 125_485_696),
    "plain56": (variant("plain56"), 853_018, 125_485_696),
    "resnet56, option B": (variant("resnet56", shortcut="B"), 855_770, 125_747_840),
    "resnet110": (variant("resnet110"), 1_727_962, 252_887_680),
    "plain110": (variant("plain110"), 1_727_962, 252_887_680),
    "resnet110, option B": (variant("resnet110", shortcut="B"), 1_730_714, 253_149_824),
    "resnet1202": (variant("resnet1202"), 19_421_274, 2_829_238_912),
    "plain1202": (variant("plain1202"), 19_421_274, 2_829_238_912),
    "resnet1202, option B": (variant("resnet1202", shortcut="B"), 19_424_026, 2_829_501_056),
    "resnet110, option C": (variant("resnet110", shortcut="C"), 1_826_202, 266_781_312),
    "preresnet164": (variant("preresnet164"), 1_703_258, 244_500_992),
    "preresnet1001": (variant("preresnet1001"), 10_327_706, 1_487_849_984),
    "wide_resnet16_4": (variant("wide_resnet16_4"), 2_748_890, 392_612_352),
    "wide_resnet16_8": (variant("wide_resnet16_8"), 10_961_370, 1_548_145_664),
    "wide_resnet16_10": (variant("wide_resnet16_10"), 17_116_634, 2_412_173_568),
    "wide_resnet22_8": (variant("wide_resnet22_8"), 17_158_106, 2_454_115_328),
    "wide_resnet28_10": (variant("wide_resnet28_10"), 36_479_194, 5_243_328_768),
    "wide_resnet28_12": (variant("wide_resnet28_12"), 52_517_850, 7_543_905_792),
    "wide_resnet40_1": (variant("wide_resnet40_1"), 563_930, 83_280_512),
    "wide_resnet40_2": (variant("wide_resnet40_2"), 2_243_546, 327_599_360),
    "wide_resnet40_4": (variant("wide_resnet40_4"), 8_949_210, 1_298_582_016),
    "wide_resnet40_8": (variant("wide_resnet40_8"), 35_748_314, 5_172_024_320),
    "wide_resnet40_10": (variant("wide_resnet40_10"), 55_841_754, 8_074_483_968),
    "wide_resnet52_1": (variant("wide_resnet52_1"), 758_362, 111_592_064),
}


def built_parameters(net: ResNet) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def built_macs(net: ResNet, image: int) -> int:
    """What torch counts in one forward pass without computing it; a multiply-add is two of its operations."""
    description = net.description
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net.eval()(torch.empty(1, description.channels, *[image] * description.dims, device="meta"))
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("name", COUNTS)
def test_arithmetic_meets_the_counts_of_the_papers(name):
    description, parameters, macs = COUNTS[name]
    assert (cost.parameters(description), cost.macs(description)) == (parameters, macs)


@pytest.mark.parametrize("name", COUNTS)
def test_the_built_net_meets_the_counts_of_the_papers(name):
    description, parameters, macs = COUNTS[name]
    with torch.device("meta"):
        net = ResNet(description)
    assert built_parameters(net) == parameters
    assert built_macs(net, description.image) == macs


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("order", get_args(Order))
@pytest.mark.parametrize("shortcut", get_args(Shortcut))
@pytest.mark.parametrize("base", ["resnet20", "resnet50", "preresnet200"])
def test_arithmetic_and_the_built_net_agree_on_every_variant(base, shortcut, order, dims):
    description = variant(
        base,
        depths=(1, 2),
        widths=(4, 5),
        stem_width=4,
        shortcut=shortcut,
        order=order,
        dims=dims,
        channels=2,
    )
    with torch.device("meta"):
        net = ResNet(description)
    assert cost.parameters(description) == built_parameters(net)
    assert cost.macs(description, 19) == built_macs(net, 19)  # an odd side, so that halves are rounded


@pytest.mark.parametrize("side", [3, 31, 32, 33, 34, 57, 224])
@pytest.mark.parametrize("pool", ["padded", "ceil"])
def test_arithmetic_pools_as_the_built_net_does(pool, side):
    description = variant("resnet18", stem_pool=pool, widths=(4, 5, 6, 7), stem_width=4)
    with torch.device("meta"):
        net = ResNet(description)
        assert cost.stages(description, side)[0].side == net.stem(torch.empty(1, 3, side, side)).shape[-1]
    assert cost.macs(description, side) == built_macs(net, side)


def test_an_image_that_pooling_leaves_nothing_of_is_refused():
    with pytest.raises(ValueError, match="too small for this network"):
        cost.macs(variant("resnet18", stem_pool="ceil"), 2)


@pytest.mark.parametrize("name", ["resnet50", "resnet20", "preresnet164", "wide_resnet28_10"])
def test_the_rows_add_up_to_the_whole(name):
    description = catalog[name]
    rows = cost.stages(description)
    assert sum(row.parameters for row in rows) == cost.parameters(description)
    assert sum(row.macs for row in rows) == cost.macs(description)
    assert [row.blocks for row in rows] == [0, *description.depths, 0]


def test_the_rows_of_resnet50_are_table_1():
    rows = cost.stages(catalog["resnet50"])
    assert [(row.name, row.side, row.channels) for row in rows] == [
        ("stem", 56, 64),
        ("stage 1", 56, 256),
        ("stage 2", 28, 512),
        ("stage 3", 14, 1024),
        ("stage 4", 7, 2048),
        ("classifier", 1, 1000),
    ]


def test_an_image_without_pixels_is_refused():
    with pytest.raises(ValueError, match="0 pixels wide; it must be at least 1"):
        cost.macs(catalog["resnet20"], 0)


def test_a_bottleneck_at_256_channels_costs_less_than_a_basic_block_at_64():
    assert 2 * 9 * 64 * 64 == 73_728
    assert 256 * 64 + 9 * 64 * 64 + 64 * 256 == 69_632
    without = variant("plain50", depths=(2, 1), widths=(64, 1))
    one_more = variant("plain50", depths=(3, 1), widths=(64, 1))
    norms = 2 * (64 + 64 + 256)
    assert cost.parameters(one_more) - cost.parameters(without) == 69_632 + norms


def test_layers_are_those_of_the_name():
    for name in ("resnet18", "resnet34", "resnet50", "resnet152", "resnet20", "plain56", "resnet1202", "preresnet1001"):
        assert cost.layers(describe(name)) == int(name.strip("plainres t"))
