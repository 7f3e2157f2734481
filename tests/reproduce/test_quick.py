from dataclasses import replace

from residual.models.cost import layers
from residual.recipes.detection import voc
from residual.recipes.paper import paper_choosing
from residual.reproduce.experiment import DetectionSetting, Row, Setting
from residual.reproduce.measures import test_error as held_out_error
from residual.reproduce.quick import ITERATIONS, quick


def test_no_number_of_the_paper_is_left(experiment):
    assert not any(row.paper for row in quick(experiment()).rows)


def test_deeper_is_still_deeper_and_equal_depths_stay_equal(setting, experiment):
    rows = [
        Row(name=name, unit="", settings=(replace(setting(name), data="cifar10"),), measure=held_out_error)
        for name in ("plain20", "resnet20", "plain56", "resnet110")
    ]
    small = quick(replace(experiment(), rows=tuple(rows), claims=(), lines=(), data=("cifar10",)))
    assert [layers(row.settings[0].description) for row in small.rows] == [8, 8, 14, 14]
    assert [row.settings[0].description.shortcut for row in small.rows] == ["none", "A", "none", "A"]


def test_trainings_are_tiny_and_on_drawn_shapes(experiment):
    small = quick(experiment(seeds=5))
    assert small.data == ("shapes",)
    for each in small.settings:
        assert each.data == "shapes"
        assert each.recipe.iterations == ITERATIONS
        assert each.recipe.name.startswith("quick-")
    assert [row.seeds for row in small.rows if row.settings] == [2, 2]


def test_every_kind_of_network_can_be_cut(experiment):
    recipe = paper_choosing()
    for name in ("resnet50", "preresnet164", "wide_resnet28_10", "resnet1202", "plain34", "wide_resnet50_2"):
        (cut,) = quick(
            replace(
                experiment(),
                rows=(Row(name=name, unit="", settings=(Setting(model=name, recipe=recipe, data="imagenet"),)),),
                claims=(),
                lines=(),
            )
        ).settings
        assert set(cut.description.depths) == {1}
        assert cut.description.widths[0] == 8


def test_every_kind_of_detector_becomes_a_small_one_of_its_kind(experiment):
    names = {
        "faster_rcnn_vgg16": "faster_rcnn_small_c4",
        "faster_rcnn_resnet101_c4_context": "faster_rcnn_small_c4_context",
        "mask_rcnn_resnet50_fpn": "mask_rcnn_small_c4",
        "mnc5_resnet101": "mnc5_small",
        "localizer_resnet101": "localizer_small",
    }
    settings = [
        DetectionSetting(model=name, recipe=voc(), data="voc07+12", trunk="resnet101-imagenet", member=2)
        for name in names
    ]
    rows = [Row(name=each.model, unit="", settings=(each,), measure=held_out_error) for each in settings]
    small = quick(replace(experiment(), rows=tuple(rows), claims=(), lines=(), data=("voc07+12",)))
    assert [each.model for each in small.settings] == list(names.values())
    assert small.data == ("scenes:16", "shapes:16")
    for each in small.settings:
        assert isinstance(each, DetectionSetting)
        assert each.trunk is None, "no trained network is asked for"
        assert each.member == 2, "the members of an ensemble stay others"
        assert each.recipe.schedule == voc().schedule


def test_an_experiment_that_is_computed_needs_no_shapes(experiment):
    computed = replace(experiment(), rows=(experiment().rows[2],), claims=(), lines=(), data=())
    assert quick(computed).data == ()
