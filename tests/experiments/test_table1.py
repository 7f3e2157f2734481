import json
from pathlib import Path

import pytest
import torch
from torch import nn

from residual.experiments import table1
from residual.experiments.table1 import COUNTED, as_printed, experiment, normalised
from residual.models.catalog import describe
from residual.models.cost import macs
from residual.models.resnet import ResNet
from residual.reproduce.verdict import judge_number

ROWS = {row.name: row for row in experiment.rows}


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.paper and row.measure])
def test_every_printed_number_is_met_by_the_networks_here_and_missed_by_the_planted_one(name):
    row = ROWS[name]
    verdict = judge_number([row.measure(())], row.paper, spread=None, resolution=row.resolution, unit=row.unit)
    assert verdict.outcome == ("differs" if row.planted else "agrees")


def test_a_wrongly_strided_resnet_50_is_told_apart():
    (planted,) = (row for row in experiment.rows if row.planted)
    assert macs(describe("resnet50_v1_5")) == 4_089_184_256
    assert planted.measure(()) == 4.1
    assert planted.paper.value == ROWS["ResNet-50: FLOPs"].paper.value == ROWS["ResNet-50: FLOPs"].measure(()) == 3.8


def test_a_number_that_made_the_rule_says_that_it_is_no_evidence_for_it():
    for layers in table1.IMAGENET:
        assert "inferred from the five FLOPs" in ROWS[f"ResNet-{layers}: FLOPs"].note
        assert not ROWS[f"ResNet-{layers}: layers"].note
    assert "inferred" in ROWS["plain-34: FLOPs"].note


def test_no_simpler_rule_gives_all_five_multiply_adds():
    exact = {layers: macs(describe(f"resnet{layers}")) / 1e9 for layers in table1.IMAGENET}
    rounded = {layers: round(count, 1) for layers, count in exact.items()}
    cut = {layers: int(10 * count) / 10 for layers, count in exact.items()}
    assert rounded == {18: 1.8, 34: 3.7, 50: 3.9, 101: 7.6, 152: 11.3} != table1.IMAGENET
    assert cut == {18: 1.8, 34: 3.6, 50: 3.8, 101: 7.5, 152: 11.2} != table1.IMAGENET
    assert {layers: as_printed(describe(f"resnet{layers}")) for layers in exact} == table1.IMAGENET


@pytest.mark.parametrize("name", ["resnet18", "plain34", "resnet50", "resnet50_v1_5", "resnet152"])
def test_what_batch_norm_passes_on_is_counted_as_the_built_network_does_it(name):
    counted = []
    with torch.device("meta"):
        model = ResNet(describe(name)).eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.register_forward_hook(lambda module, inputs, output: counted.append(output.numel()))
        model(torch.empty(1, 3, 224, 224))
    assert sum(counted) == normalised(describe(name))


def test_the_152_layers_take_less_than_vgg():
    assert ROWS["ResNet-152: FLOPs"].measure(()) < ROWS["VGG-16: FLOPs"].paper.value < ROWS["VGG-19: FLOPs"].paper.value


def test_shortcuts_of_option_a_cost_nothing():
    for layers in (18, 34):
        for what in ("exact parameters", "exact multiply-adds"):
            plain, residual = ROWS[f"plain-{layers}: {what}"], ROWS[f"ResNet-{layers}, option A: {what}"]
            assert plain.measure(()) == residual.measure(())


def test_exact_counts_are_those_made_from_the_paper_by_hand(shared_data: Path):
    path = shared_data.parent / "paper_tables.json"
    if not path.is_file():
        pytest.skip(f"the paper's tables are not at {path}")
    theirs = json.loads(path.read_bytes())["computed_counts"]

    def key(name: str) -> str:
        if name.startswith("plain-"):
            return name.replace("-", "")
        if "stride" in name:
            return "resnet50_B_v1_5"
        layers = name.split("-")[1].split(",")[0]
        if "CIFAR" in name:
            return f"cifar_resnet{layers}_A"
        return f"resnet{layers}_{name[-1]}" + ("_v1" if int(layers) >= 50 else "")

    for name in COUNTED:
        counts = theirs[key(name)]
        assert ROWS[f"{name}: exact parameters"].measure(()) == counts["params"], name
        assert ROWS[f"{name}: exact multiply-adds"].measure(()) == counts["macs"], name
