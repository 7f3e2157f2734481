"""What a description may say, and what it may not."""

from dataclasses import replace
from itertools import pairwise

import msgspec
import pytest

from residual.models.catalog import catalog, describe
from residual.models.description import Description, units


@pytest.mark.parametrize("name", catalog)
def test_a_description_survives_json(name):
    written = msgspec.json.encode(catalog[name])
    assert msgspec.json.decode(written, type=Description) == catalog[name]


def test_a_description_written_before_a_field_existed_is_read():
    """Files of weights and runs from before `stem_pool`: what nobody said then is what everybody did."""
    written = msgspec.to_builtins(catalog["resnet50"])
    del written["stem_pool"]
    assert msgspec.convert(written, Description) == catalog["resnet50"]


def test_a_misspelt_field_in_json_is_refused_with_its_path():
    with pytest.raises(msgspec.ValidationError, match=r"shortcut"):
        msgspec.convert(msgspec.to_builtins(catalog["resnet20"]) | {"shortcut": "D"}, Description)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"shortcut": "D"}, "shortcut is 'D'; it must be one of: A, B, C, none"),
        ({"order": "post"}, "order is 'post'; it must be one of: original"),
        ({"block": "dense"}, "block is 'dense'; it must be one of: basic, bottleneck"),
        ({"dims": 4}, "dims is 4; it must be one of: 1, 2, 3"),
        ({"depths": (3, 3)}, "must name the same stages"),
        ({"depths": (), "widths": ()}, "must name the same stages, at least one"),
        ({"depths": (3, 0, 3)}, r"depths is \(3, 0, 3\); it counts things, so it must be at least 1"),
        ({"classes": 0}, "classes is 0; it counts things, so it must be at least 1"),
        ({"stochastic_depth": 1.0}, "stochastic_depth is 1.0; it is a probability, at least 0 and below 1"),
        ({"dropout": -0.1}, "dropout is -0.1; it is a probability"),
        ({"inner": 2.0}, "only a bottleneck has an inner width"),
        ({"block": "bottleneck", "inner": 0.001}, "leaves a bottleneck without channels"),
        ({"stride_in": "middle"}, "is the 3x3 of a bottleneck, and these blocks are basic"),
        ({"block": "bottleneck", "dropout": 0.3}, "between the two convolutions of a basic block"),
        ({"shortcut": "none", "stochastic_depth": 0.5}, "must hand on x, and shortcut 'none' cannot"),
        ({"shortcut": "exclusive", "stochastic_depth": 0.5}, "shortcut 'exclusive' cannot"),
        ({"widths": (16, 32, 8)}, r"the channels go 16 -> 16 -> 32 -> 8, but shortcut 'A' pads"),
        ({"shortcut_scale": 0.5}, "belong to shortcut=\"constant\", not to 'A'"),
        ({"stem_pool": "valid"}, "stem_pool is 'valid'; it must be one of: padded, ceil"),
        ({"stem_pool": "ceil"}, "Caffe's way of pooling, but stem 'cifar' does not pool"),
        ({"gate_bias": -6.0}, "shortcut 'A' has no gate; set it to 0, or choose one of: exclusive"),
    ],
)
def test_a_contradiction_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(catalog["resnet20"], **changes)


def test_a_net_has_one_unit_for_each_block_and_strides_where_a_later_stage_begins():
    found = list(units(catalog["resnet50"]))
    assert len(found) == sum(catalog["resnet50"].depths)
    assert [number for number, unit in enumerate(found) if unit.stride == 2] == [3, 7, 13]


def test_survival_falls_linearly_to_that_of_the_last_block():
    """p_l = 1 - (l / L)(1 - p_L), as Huang et al. 2016 have it."""
    found = list(units(replace(describe("resnet110"), stochastic_depth=0.5)))
    assert found[0].survival == pytest.approx(1 - 0.5 / 54)
    assert found[-1].survival == 0.5
    steps = {round(a.survival - b.survival, 12) for a, b in pairwise(found)}
    assert len(steps) == 1


def test_a_pre_activation_net_shares_the_activation_only_where_the_shape_changes():
    leads = [unit.lead for unit in units(describe("preresnet29"))]
    assert leads == ["none", "own", "own", "shared", "own", "own", "shared", "own", "own"]
    assert {unit.lead for unit in units(describe("resnet20"))} == {"none"}
