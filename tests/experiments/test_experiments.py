"""Laws that every description of an experiment keeps, and numbers of the paper that follow from each other."""

import re
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from statistics import mean

import pytest

import residual.experiments
from residual.cli.reproduce import EXPERIMENTS
from residual.detect.catalog import named
from residual.models.catalog import describe
from residual.reproduce.data import DATA
from residual.reproduce.experiment import DetectionSetting, Experiment
from residual.reproduce.quick import quick

FILES = sorted(path.stem for path in Path(residual.experiments.__file__).parent.glob("*.py"))
NAMES = [name for name in FILES if name not in ("__init__", "demo")]
TWINS = ("table2_tiny", "table3_tiny", "table4_tiny", "table5_tiny", "figure4_tiny")
DETECTED = {"table7_voc2007": "table7", "table9_scenes": "table9", "table13_tiny": "table13"}  # twins of detectors


def experiment(name: str) -> Experiment:
    return import_module(f"residual.experiments.{name}").experiment


def printed(name: str) -> dict[str, float]:
    return {row.name: row.paper.value for row in experiment(name).rows if row.paper}


def test_every_table_and_figure_with_numbers_has_a_file():
    expected = {f"table{number}" for number in range(1, 15)} | {f"figure{number}" for number in (1, 4, 6, 7)}
    expected |= {"identity_shortcuts", "identity_activations", "identity_depth", "wide", "stochastic_depth", *TWINS}
    expected |= {"masks_scenes", "departures", *DETECTED}
    assert set(NAMES) == expected


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_is_called_as_its_file(name):
    assert experiment(name).name == name.replace("_", "-")


def test_the_command_knows_every_experiment_once():
    assert sorted(EXPERIMENTS) == sorted(name.replace("_", "-") for name in NAMES)


def test_the_map_of_the_paper_names_every_experiment_and_no_file_that_is_not_there():
    root = Path(__file__).parents[2]
    told = (root / "docs" / "paper.md").read_text()
    assert [name for name in NAMES if f"{name}.py`" not in told] == []
    paths = re.findall(r"`((?:residual|tests)/[\w/]+\.py)`", told)
    assert len(paths) > 30
    assert [path for path in paths if not (root / path).is_file()] == []


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_says_what_data_it_needs(name):
    one = experiment(name)
    trunks = {setting.trunk for setting in one.settings if isinstance(setting, DetectionSetting) and setting.trunk}
    assert set(one.data) == {setting.data for setting in one.settings} | trunks
    assert set(one.data) <= set(DATA)


@pytest.mark.parametrize("name", NAMES)
def test_every_row_is_measured_or_cited_and_every_training_is_one_that_can_be_built(name):
    for row in experiment(name).rows:
        assert row.measure is not None or (row.paper is not None and not row.settings)
        assert row.measure is None or row.settings or row.paper is None or row.paper.kind == "exact"
    for setting in experiment(name).settings:
        assert len(setting.key) == 16
        if isinstance(setting, DetectionSetting):
            trunk = named(setting.model).trunk
            network = None if setting.trunk is None else DATA[setting.trunk].network
            assert network is None or trunk == (network if network == "vgg16" else describe(network))
            continue
        assert setting.size is None or setting.recipe.augmentation.shorter[0] >= setting.size


@pytest.mark.parametrize("name", NAMES)
def test_its_quick_form_has_the_same_rows_and_nothing_of_the_paper(name):
    one, small = experiment(name), quick(experiment(name))
    assert [row.name for row in small.rows] == [row.name for row in one.rows]
    assert not any(row.paper for row in small.rows)


@pytest.mark.parametrize("name", [name for name in NAMES if experiment(name).lines])
def test_a_figure_says_what_its_axes_are_and_draws_what_its_rows_measure(name):
    one = experiment(name)
    assert one.x
    assert one.y
    rows = {setting.key for row in one.rows for setting in row.settings}
    assert {line.setting.key for line in one.lines} <= rows


@pytest.mark.parametrize("name", TWINS)
def test_a_twin_makes_the_same_claims_with_the_same_networks_on_other_data(name):
    twin, original = experiment(name), experiment(name.removesuffix("_tiny"))
    assert twin.twin_of == original.name
    assert twin.protocol is None
    assert {claim.text for claim in twin.claims} <= {claim.text.removesuffix(" in top-1") for claim in original.claims}
    networks = {setting.description for setting in original.settings}
    assert {setting.description for setting in twin.settings} == networks
    assert twin.data != original.data


@pytest.mark.parametrize(("name", "original"), DETECTED.items())
def test_a_twin_of_detectors_has_its_own_data_and_nothing_of_the_paper(name, original):
    twin = experiment(name)
    assert twin.twin_of == original
    assert twin.protocol is None
    assert not set(twin.data) & set(experiment(original).data)
    assert twin.claims


def test_twins_of_detectors_improve_as_the_originals_do():
    ours, theirs = ({claim.text for claim in experiment(name).claims} for name in ("table9_scenes", "table9"))
    assert {text.replace("mAP@.5", "val mAP@.5") for text in ours} - theirs == {
        "Ensemble of 3 networks adds val mAP@.5"
    }
    assert experiment("table13_tiny").claims != experiment("table13").claims, "the rows have other names"
    ours, theirs = ([claim.text for claim in experiment(name).claims] for name in ("table13_tiny", "table13"))
    assert ours == theirs


def test_an_ensemble_of_detectors_is_one_training_with_other_random_numbers():
    for name, row in (("table9_scenes", "ensemble of 3 networks"), ("table12", "ensemble of 3 networks, val2")):
        (found,) = [one for one in experiment(name).rows if one.name == row]
        first, *others = found.settings
        assert [replace(other, member=0) for other in others] == [first, first]
        assert len({setting.key for setting in found.settings}) == 3


def test_what_a_server_judges_is_cited_and_the_note_says_so():
    for name in ("table7", "table9", "table11", "table12", "table14"):
        judged = [row for row in experiment(name).rows if "not public" in row.note]
        assert judged
        assert not any(row.measure or row.settings for row in judged)
    cited = [row for row in experiment("table10").rows if row.measure is None]
    assert {row.name.partition(":")[0] for row in cited} == {"ResNet-101+++, COCO+07+12"}
    assert all("not built" in row.note for row in cited)


@pytest.mark.parametrize("name", NAMES)
def test_a_row_that_is_only_cited_says_why_in_its_own_words(name):
    cited = [row for row in experiment(name).rows if row.measure is None]
    assert [row.name for row in cited if len(row.note.split()) < 4] == []


def test_the_classes_of_table_10_are_those_of_pascal_voc():
    official = import_module("residual.experiments.table10").OFFICIAL
    assert [(short, name) for short, name in official.items() if short not in name] == [
        ("mean", ""),
        ("bike", "bicycle"),
        ("mbike", "motorbike"),
    ]


def test_runs_are_shared_between_experiments():
    def keys(name: str) -> set[str]:
        return {setting.key for setting in experiment(name).settings}

    assert keys("figure1") <= keys("figure6")
    assert keys("table6") <= keys("figure6")
    assert keys("figure7") <= keys("figure6")
    assert keys("figure4") == keys("table2")
    assert keys("table5") == keys("table4") <= keys("table3")
    assert keys("figure4_tiny") == keys("table2_tiny")
    assert keys("table5_tiny") == keys("table4_tiny") <= keys("table3_tiny")
    assert not keys("table2") & keys("table2_tiny")
    assert keys("table10") == keys("table7")
    assert keys("table8") < keys("table9")
    assert keys("table13_tiny") & keys("table2_tiny")


def test_table_2_asks_for_networks_of_option_a():
    for row in experiment("table2").rows:
        shortcut = row.settings[0].description.shortcut
        assert shortcut == ("none" if row.name.startswith("plain") else "A")


def test_tables_2_and_3_agree_on_what_both_print():
    two, three = printed("table2"), printed("table3")
    assert two["plain-34"] == three["plain-34, top-1"]
    assert two["ResNet-34"] == three["ResNet-34 A, top-1"]


def test_five_scales_are_better_than_ten_crops():
    ten, scales = printed("table3"), printed("table4")
    shared = [name for name in ten if name in scales and name.startswith("ResNet")]
    assert len(shared) == 10
    assert all(scales[name] < ten[name] for name in shared)


@pytest.mark.parametrize(("table", "year"), [("table10", "07"), ("table11", "12")])
def test_the_mean_of_the_classes_is_the_printed_mean_and_that_of_table_7(table, year):
    numbers, seven = printed(table), printed("table7")
    module = import_module(f"residual.experiments.{table}")
    for system in module.SYSTEMS:
        classes = [numbers[f"{system}: {what}"] for what in module.PRECISION if what != "mean"]
        assert len(classes) == 20
        assert round(mean(classes), 1) == pytest.approx(numbers[f"{system}: mean"], abs=0.051)  # of rounded numbers
    assert numbers[f"{module.SYSTEMS[0]}: mean"] == seven[f"VGG-16, VOC {year} test"]
    assert numbers[f"{module.SYSTEMS[1]}: mean"] == seven[f"ResNet-101, VOC {year} test"]


def test_table_8_is_the_beginning_of_table_9():
    eight, nine = printed("table8"), printed("table9")
    for network in ("VGG-16", "ResNet-101"):
        for metric in ("mAP@.5", "mAP@[.5, .95]"):
            assert eight[f"{network}, {metric}"] == nine[f"baseline, {network}, val {metric}"]


def test_gains_that_the_text_names():
    eight, two = printed("table8"), printed("table2")
    gain = eight["ResNet-101, mAP@[.5, .95]"] - eight["VGG-16, mAP@[.5, .95]"]
    assert round(gain, 1) == 6.0
    assert round(100 * gain / eight["VGG-16, mAP@[.5, .95]"]) == 28
    assert round(eight["ResNet-101, mAP@.5"] - eight["VGG-16, mAP@.5"], 1) == 6.9
    assert int(10 * (two["ResNet-18"] - two["ResNet-34"])) / 10 == 2.8
    assert round(two["plain-34"] - two["ResNet-34"], 1) == 3.5
    fourteen = printed("table14")
    ours, before = fourteen["ResNet (ILSVRC 2015), test"], fourteen["VGG (ILSVRC 2014), test"]
    assert int(100 * (1 - ours / before)) == 64
    assert min(printed("table13").values()) == fourteen["ResNet (ILSVRC 2015), validation"]


def test_what_the_paper_claims_holds_in_the_numbers_that_it_prints():
    """A claim whose rows all have numbers must be true of them: a wrong digit or a reversed claim shows here."""
    tested = 0
    for name in NAMES:
        numbers = printed(name)
        for claim in experiment(name).claims:
            values = [numbers.get(row) for row in claim.rising]
            if None not in values:
                tested += 1
                assert values == sorted(values), (name, claim.text)
    assert tested >= 57


@pytest.mark.parametrize("name", ["table3", "table3_tiny"])
def test_any_shortcut_is_each_of_the_three(name):
    claims = {claim.text: claim.rising for claim in experiment(name).claims}
    for option in "ABC":
        better, worse = claims[f"Option {option} improves 34 layers"]
        assert better.startswith(f"ResNet-34 {option}")
        assert worse.startswith("plain-34")


def test_table_6_asks_for_five_runs_of_110_layers_and_compares_with_the_best_of_five():
    row = next(row for row in experiment("table6").rows if row.name == "ResNet-110")
    assert row.seeds == row.paper.n == 5
    assert row.paper.kind == "best"


def test_the_networks_of_identity_depth_are_those_of_the_second_paper():
    by_name = {row.name: row for row in experiment("identity_depth").rows}
    row = by_name["CIFAR-10: ResNet-164, original"]
    description = row.settings[0].description
    assert (description.block, description.depths, description.order) == ("bottleneck", (18, 18, 18), "original")
    assert by_name["CIFAR-10: ResNet-110, original"].settings[0].description == describe("resnet110")
    assert by_name["CIFAR-100: ResNet-1001, pre-activation"].settings[0].description.depths == (111, 111, 111)


def test_the_failures_of_the_second_paper_are_bounds():
    fails = [row for row in experiment("identity_shortcuts").rows if row.paper.kind == "above"]
    assert len(fails) == 4
    assert all(row.paper.value == 20 for row in fails)
    best = next(row for row in fails if len(row.settings) > 1)
    assert [setting.description.gate_bias for setting in best.settings] == [0, -1, -2, -3, -4, -5]
