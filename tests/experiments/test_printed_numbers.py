"""Each number of the papers, as the experiments have it, against a transcription that was made independently."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from residual.models.catalog import describe
from residual.reproduce.experiment import Row

Table = dict[str, Any]


@pytest.fixture(scope="session")
def tables(shared_data: Path) -> Table:
    path = shared_data.parent / "paper_tables.json"
    if not path.is_file():
        pytest.skip(f"the paper's tables are not at {path}")
    found: Table = json.loads(path.read_bytes())
    return found


def rows(name: str) -> dict[str, Row]:
    return {row.name: row for row in import_module(f"residual.experiments.{name}").experiment.rows}


def values(name: str) -> dict[str, float]:
    return {key: row.paper.value for key, row in rows(name).items() if row.paper is not None}


def named(table: Table, names: dict[str, str], *fields: str) -> dict[str, float]:
    """{"<name>, <field>": number} of a table by key, without the empty places; one field goes without its name."""
    return {
        f"{name}, {field}" if len(fields) > 1 else name: table[key][field]
        for key, name in names.items()
        for field in fields
        if table[key].get(field) is not None
    }


def renamed(numbers: dict[str, float], *pairs: tuple[str, str]) -> dict[str, float]:
    for old, new in pairs:
        numbers = {name.replace(old, new): value for name, value in numbers.items()}
    return numbers


COUNTS = {"layers", "runs", "networks", "models", "depth152_models"}  # of what a number is of; tested with their tables


def numbers_in(table: Any) -> list[float]:
    """Every number that is measured, whatever it is called."""
    match table:
        case dict():
            return [number for key, value in table.items() if key not in COUNTS for number in numbers_in(value)]
        case bool() | str() | None:
            return []
        case _:
            return [table]


def printed_in(name: str) -> list[float]:
    """Every number of a paper that an experiment prints, means and deviations among them."""
    papers = [row.paper for row in rows(name).values() if row.paper is not None]
    return [number for paper in papers for number in (paper.value, paper.mean, paper.std) if number is not None]


@pytest.mark.parametrize("number", range(2, 15))
def test_a_table_has_each_printed_number_as_often_as_the_paper_and_no_other(tables, number):
    assert sorted(printed_in(f"table{number}")) == sorted(numbers_in(tables[f"table{number}"]))


TOPS = (("top1", "top-1"), ("top5", "top-5"))


def test_table_1(tables):
    theirs, ours = tables["table1"], values("table1")
    for layers in (18, 34, 50, 101, 152):
        assert ours[f"ResNet-{layers}: FLOPs"] == theirs[f"resnet{layers}"]["flops_paper_multiply_adds"] / 1e9
    for layers in (16, 19):
        assert ours[f"VGG-{layers}: FLOPs"] == theirs[f"vgg{layers}"]["flops_paper_multiply_adds"] / 1e9
    assert {f"{name}: output": stage["out"] for name, stage in theirs["stages"].items()}.items() <= ours.items()
    sizes = {key: row["params"] for key, row in tables["table6"].items() if "params" in row}
    names = {f"resnet{layers}": f"ResNet-{layers}" for layers in (20, 32, 44, 56, 110, 1202)}
    names |= {"fitnet": "FitNet, 19 layers", "highway19": "Highway, 19 layers", "highway32": "Highway, 32 layers"}
    assert {key: f"{ours[f'{name}: parameters']:g}M" for key, name in names.items()} == sizes
    for layers in (18, 34, 50, 101, 152):
        network = describe(f"resnet{layers}")
        assert list(network.depths) == theirs[f"resnet{layers}"]["blocks"]
        assert network.block == theirs[f"resnet{layers}"]["block_type"]
    convolutions = tables["text_numbers"]["resnet101_conv_layers_conv1_to_conv4"]
    assert ours["ResNet-101: convolutions up to conv4_x"] == convolutions


def test_table_2(tables):
    names = {"plain18": "plain-18", "plain34": "plain-34", "resnet18": "ResNet-18", "resnet34": "ResNet-34"}
    assert values("table2") == named(tables["table2"], names, "top1")


def test_table_3(tables):
    names = {"vgg16": "VGG-16", "googlenet": "GoogLeNet", "prelu_net": "PReLU-net", "plain34": "plain-34"}
    names |= {f"resnet34_{option}": f"ResNet-34 {option}" for option in "ABC"}
    names |= {f"resnet{layers}": f"ResNet-{layers}" for layers in (50, 101, 152)}
    assert values("table3") == renamed(named(tables["table3"], names, "top1", "top5"), *TOPS)


def test_table_4(tables):
    names = {
        "vgg_ilsvrc14": "VGG (ILSVRC 2014), test set",
        "googlenet_ilsvrc14": "GoogLeNet (ILSVRC 2014)",
        "vgg_v5": "VGG (version 5)",
        "prelu_net": "PReLU-net",
        "bn_inception": "BN-inception",
        "resnet34_B": "ResNet-34 B",
        "resnet34_C": "ResNet-34 C",
    }
    names |= {f"resnet{layers}": f"ResNet-{layers}" for layers in (50, 101, 152)}
    assert values("table4") == renamed(named(tables["table4"], names, "top1", "top5"), *TOPS)


def test_table_5(tables):
    names = {
        "vgg_ilsvrc14": "VGG (ILSVRC 2014)",
        "googlenet_ilsvrc14": "GoogLeNet (ILSVRC 2014)",
        "vgg_v5": "VGG (version 5)",
        "prelu_net": "PReLU-net",
        "bn_inception": "BN-inception",
        "resnet_ilsvrc15": "ResNet (ILSVRC 2015), six networks",
    }
    assert values("table5") == named(tables["table5"], names, "top5")


def test_table_6(tables):
    names = {
        "maxout": "Maxout",
        "nin": "NIN",
        "dsn": "DSN",
        "fitnet": "FitNet, 19 layers",
        "highway19": "Highway, 19 layers",
        "highway32": "Highway, 32 layers",
    }
    names |= {f"resnet{layers}": f"ResNet-{layers}" for layers in (20, 32, 44, 56, 110, 1202)}
    assert values("table6") == named(tables["table6"], names, "error")
    for key in ("highway19", "resnet110"):
        printed = rows("table6")[names[key]].paper
        assert (printed.mean, printed.std) == (tables["table6"][key]["mean"], tables["table6"][key]["std"])
    assert rows("table6")["ResNet-110"].paper.n == tables["table6"]["resnet110"]["runs"]


def test_table_7(tables):
    numbers = named(tables["table7"], {"vgg16": "VGG-16", "resnet101": "ResNet-101"}, "voc07", "voc12")
    assert values("table7") == renamed(numbers, ("voc07", "VOC 07 test"), ("voc12", "VOC 12 test"))


def test_table_8(tables):
    numbers = named(tables["table8"], {"vgg16": "VGG-16", "resnet101": "ResNet-101"}, "ap50", "ap")
    expected = {}
    for name, value in numbers.items():
        network, metric = name.split(", ")
        expected[f"{network}, {'mAP@.5' if metric == 'ap50' else 'mAP@[.5, .95]'}"] = value
    assert values("table8") == expected


def test_table_9(tables):
    names = {
        "baseline_vgg16": "baseline, VGG-16",
        "baseline_resnet101": "baseline, ResNet-101",
        "plus_box_refinement": "+ box refinement",
        "plus_context": "+ context",
        "plus_multiscale_testing": "+ testing at several scales",
        "ensemble": "ensemble of 3 networks",
    }
    metrics = {
        "val_ap50": "val mAP@.5",
        "val_ap": "val mAP@[.5, .95]",
        "testdev_ap50": "test-dev mAP@.5",
        "testdev_ap": "test-dev mAP@[.5, .95]",
    }
    table = {
        key: {metric: row.get(field) for field, metric in metrics.items()}
        for key, row in tables["table9"].items()
        if isinstance(row, dict)
    }
    assert values("table9") == named(table, names, *metrics.values())
    assert tables["table9"]["ensemble"]["networks"] == 3


@pytest.mark.parametrize("number", [10, 11])
def test_tables_10_and_11(tables, number):
    table, module = tables[f"table{number}"], import_module(f"residual.experiments.table{number}")
    expected = {}
    for system, (network, key) in zip(
        module.SYSTEMS,
        (
            ("VGG-16", "baseline_vgg16"),
            ("ResNet-101", "baseline_resnet101"),
            ("ResNet-101+++", "baselineplusplusplus_resnet101"),
        ),
        strict=True,
    ):
        assert system == f"{network}, {table[key]['data']}"
        expected |= {f"{system}: mean": table[key]["map"]}
        expected |= {f"{system}: {name}": value for name, value in table[key]["ap"].items()}
    assert values(f"table{number}") == expected


def test_table_12(tables):
    names = {
        "googlenet_ilsvrc14": "GoogLeNet (ILSVRC 2014)",
        "ours_single": "one ResNet-101",
        "ours_ensemble": "ensemble of 3 networks",
    }
    assert values("table12") == named(tables["table12"], names, "val2", "test")
    assert tables["table12"]["ours_ensemble"]["networks"] == 3


def test_table_13(tables):
    rows_in_order = [row for row in tables["table13"].values() if isinstance(row, dict)]
    for theirs, (name, row) in zip(rows_in_order, rows("table13").items(), strict=True):
        assert theirs["network"] in name
        assert theirs["testing"].replace("1-crop", "one crop") in name
        given = "gt_class_error" in theirs
        assert row.paper.value == theirs["gt_class_error" if given else "top5_error"]
        assert ("given" in row.unit) == given


def test_table_14(tables):
    names = {
        "overfeat_ilsvrc13": "OverFeat (ILSVRC 2013)",
        "googlenet_ilsvrc14": "GoogLeNet (ILSVRC 2014)",
        "vgg_ilsvrc14": "VGG (ILSVRC 2014)",
        "ours_ilsvrc15": "ResNet (ILSVRC 2015)",
    }
    numbers = named(tables["table14"], names, "val", "test")
    assert values("table14") == renamed(numbers, (", val", ", validation"))


def test_figure_6(tables):
    said = tables["text_numbers"]
    assert values("figure6") == {
        "plain-110, test error": said["plain110_error_above"],
        "ResNet-1202, training error": said["resnet1202_train_error_below"],
    }
    kinds = {name: row.paper.kind for name, row in rows("figure6").items() if row.paper}
    assert list(kinds.values()) == ["below", "above"]


def test_identity_shortcuts(tables):
    theirs = tables["followups"]["identity_mappings_v2"]["table1_shortcuts_resnet110_cifar10"]
    names = {
        "original": "identity",
        "scaling_0_1": "nothing (plain)",
        "scaling_0.5_1": "constant 0.5, F as it is",
        "scaling_0.5_0.5": "constant 0.5, F times 0.5",
        "exclusive_gating_bg_0_to_-5": "exclusive gate, bias 0 to -5, the best",
        "exclusive_gating_bg_-6": "exclusive gate, bias -6",
        "exclusive_gating_bg_-7": "exclusive gate, bias -7",
        "shortcut_gating_bg_0": "shortcut-only gate, bias 0",
        "shortcut_gating_bg_-6": "shortcut-only gate, bias -6",
        "conv1x1": "1x1 convolution",
        "dropout_0.5": "dropout 0.5",
    }
    expected = {names[key]: 20 if value == "fail" else value for key, value in theirs.items() if key in names}
    assert values("identity_shortcuts") == expected


def test_identity_activations(tables):
    theirs = tables["followups"]["identity_mappings_v2"]["table2_activation"]
    names = {
        "original": "original",
        "bn_after_add": "bn-after-add",
        "relu_before_add": "relu-before-add",
        "relu_only_preact": "relu-only",
        "full_preact": "full",
    }
    expected = {
        f"ResNet-{layers}, {name}": theirs[key][f"resnet{layers}"]
        for key, name in names.items()
        for layers in (110, 164)
    }
    assert values("identity_activations") == expected


def test_identity_depth(tables):
    theirs = tables["followups"]["identity_mappings_v2"]
    expected = {}
    for data, key in (("CIFAR-10", "cifar10"), ("CIFAR-100", "cifar100")):
        for network, pair in theirs["table3"][key].items():
            layers = network.removeprefix("resnet").replace("_1layer", " of one-layer units")
            for units, error in zip(("original", "pre-activation"), pair, strict=True):
                expected[f"{data}: ResNet-{layers}, {units}"] = error
    four = theirs["table4"]
    small = "CIFAR-10: ResNet-1001, pre-activation, 64 images at a time"
    expected[small] = four["cifar10"]["preact1001_batch64"]
    assert values("identity_depth") == expected
    for name, table, key in (
        ("CIFAR-10: ResNet-1001, pre-activation", "cifar10", "preact1001"),
        ("CIFAR-100: ResNet-1001, pre-activation", "cifar100", "preact1001"),
        (small, "cifar10", "preact1001_batch64"),
    ):
        printed = rows("identity_depth")[name].paper
        assert (printed.mean, printed.std) == (four[table][f"{key}_mean"], four[table][f"{key}_std"])


def test_wide(tables):
    theirs = tables["followups"]["wrn"]["meanstd"]
    names = {
        "40-4": "WRN-40-4",
        "16-8": "WRN-16-8",
        "28-10": "WRN-28-10",
        "28-10-dropout": "WRN-28-10, dropout",
    }
    expected = {
        f"{data}: {name}": theirs[key][place]
        for key, name in names.items()
        for place, data in enumerate(("CIFAR-10", "CIFAR-100"))
    }
    assert values("wide") == expected


def test_stochastic_depth(tables):
    theirs = tables["followups"]["stochastic_depth"]
    assert values("stochastic_depth") == {
        "CIFAR-10: ResNet-110, constant depth": theirs["cifar10_110_baseline_code"],
        "CIFAR-10: ResNet-110, stochastic depth": theirs["cifar10_110_paper"],
        "CIFAR-10: ResNet-1202, stochastic depth": theirs["cifar10_1202_paper"],
        "CIFAR-100: ResNet-110, stochastic depth": theirs["cifar100_110_paper"],
    }
