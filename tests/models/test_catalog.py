"""Names of networks."""

import subprocess
import sys
from dataclasses import replace

import pytest

from residual.models.catalog import catalog, describe, list_models


def test_the_catalog_holds_the_names_that_are_promised():
    promised = """
        resnet18 resnet34 resnet50 resnet101 resnet152 resnet50_v1_5 resnet101_v1_5 resnet152_v1_5
        plain18 plain34
        resnet20 resnet32 resnet44 resnet56 resnet110 resnet1202 plain20 plain32 plain44 plain56 plain110
        preresnet110 preresnet164 preresnet1001 preresnet200
        wide_resnet28_10 wide_resnet16_8 wide_resnet40_4 wide_resnet50_2 wide_resnet101_2
    """
    assert set(list_models()) == {*promised.split(), "small_c4", "small_fpn", "small_localizer"}
    assert all(describe(name) is catalog[name] for name in list_models())


def layers(name: str) -> int:
    """Convolutions on the main path, and the classifier."""
    description = describe(name)
    return sum(description.depths) * (2 if description.block == "basic" else 3) + 2


@pytest.mark.parametrize("name", ["resnet26", "resnet74", "plain26", "preresnet29", "preresnet38"])
def test_any_legal_depth_has_that_many_layers(name):
    assert layers(name) == int("".join(filter(str.isdigit, name)))


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101", "preresnet200"])
def test_an_imagenet_name_counts_its_layers(name):
    assert layers(name) == int("".join(filter(str.isdigit, name)))


def test_a_wide_depth_counts_its_three_projections_and_not_the_classifier():
    assert all(layers(f"wide_resnet{depth}_8") + 3 - 1 == depth for depth in (16, 22, 28, 40))


def test_a_pre_activation_depth_of_both_rules_is_basic_to_110_layers_and_bottlenecks_above():
    assert describe("preresnet110").block == describe("preresnet56").block == "basic"
    assert describe("preresnet164").block == describe("preresnet128").block == "bottleneck"
    assert describe("preresnet116").block == "basic"  # 6n + 2 alone


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet20", "resnet56", "resnet50"])
def test_a_plain_name_is_the_residual_one_without_shortcuts(name):
    assert describe(name.replace("resnet", "plain")) == replace(describe(name), shortcut="none")


def test_v1_5_differs_from_the_paper_in_the_place_of_the_stride_only():
    assert describe("resnet50_v1_5") == replace(describe("resnet50"), stride_in="middle")


def test_a_wide_imagenet_name_takes_any_factor():
    assert describe("wide_resnet50_3").inner == 3


@pytest.mark.parametrize(
    "name, message",
    [
        ("resnet21", r"6n \+ 2 layers \(section 4.2\), so depth 21 does not exist; nearest: 20 or 26"),
        ("plain24", r"depth 24 does not exist; nearest: 20 or 26"),
        ("resnet2", r"depth 2 does not exist; nearest: 8"),
        ("resnet0", r"depth 0 does not exist; nearest: 8"),
        ("preresnet21", r"9n \+ 2 \(bottlenecks\), so depth 21 does not exist; nearest: 20 or 26"),
        ("preresnet28", r"depth 28 does not exist; nearest: 26 or 29"),
        ("preresnet3", r"depth 3 does not exist; nearest: 8"),
        ("wide_resnet20_4", r"6n \+ 4 layers, so depth 20 does not exist; nearest: 16 or 22"),
        ("wide_resnet28_0", r"0 times as wide .* at least 1"),
        ("resnet18_v1_5", r"so there are resnet50_v1_5, resnet101_v1_5 and resnet152_v1_5"),
        ("restnet50", r"no network is called 'restnet50'; did you mean resnet50"),
        ("vgg16", r"no network is called 'vgg16'.* lists all 33"),
        ("", r"no network is called ''"),
        ("resnet-20", r"no network is called 'resnet-20'; did you mean .*resnet20"),
    ],
)
def test_a_name_that_does_not_exist_is_refused_with_its_neighbours(name, message):
    with pytest.raises(ValueError, match=message):
        describe(name)


def test_describing_and_counting_need_no_torch():
    code = "import sys, residual.models.catalog, residual.models.cost; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
