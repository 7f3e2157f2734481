"""The trainings of detectors that several experiments share, and how their improvements follow each other.

Experiments never import each other; that equal trainings are one run is because they are told by one function.
"""

from dataclasses import replace
from itertools import pairwise

from residual.recipes.detection import coco, modern_small, voc_alternating
from residual.reproduce.detection_measures import How, localization_error
from residual.reproduce.experiment import AnySetting, Claim, DetectionSetting, Measure, Printed, Row

SERVER = "the answers to these test images are not public: a server judges, and nothing here can"
TRUNKS = {
    "VGG-16": ("faster_rcnn_vgg16", "vgg16-imagenet"),
    "ResNet-101": ("faster_rcnn_resnet101_c4", "resnet101-imagenet"),
}
"""The two networks under the same detector: its name, and the trained weights that it begins with."""
MEMBERS = 3  # networks of an ensemble
PLAIN = "baseline"
REFINED, CONTEXT, SCALES = "+ box refinement", "+ context", "+ testing at several scales"
ENSEMBLE = "ensemble of 3 networks"
CHAIN = (PLAIN, REFINED, CONTEXT, SCALES, ENSEMBLE)


def on_voc(network: str) -> DetectionSetting:
    """Tables 7 and 10: trained on the trainval images of 2007 and 2012 in four steps."""
    model, trunk = TRUNKS[network]
    return DetectionSetting(model=model, recipe=voc_alternating(), data="voc07+12", trunk=trunk)


def on_coco(network: str) -> DetectionSetting:
    """Tables 8 and 9: trained on the 80k training images."""
    model, trunk = TRUNKS[network]
    return DetectionSetting(model=model, recipe=coco(), data="coco", trunk=trunk)


def on_det() -> DetectionSetting:
    """Table 12: the network of table 9 with context, trained alike on ImageNet DET, train and val1."""
    return replace(with_context(on_coco("ResNet-101")), data="imagenet-det")


def on_scenes(model: str) -> DetectionSetting:
    """A small detector on drawn scenes, the same ones whatever the seed, from random weights."""
    return DetectionSetting(model=model, recipe=modern_small(), data="scenes:4000")


def with_context(setting: DetectionSetting) -> DetectionSetting:
    """The same with global context, which must be trained for (appendix B)."""
    return replace(setting, model=f"{setting.model}_context")


def ensemble(setting: DetectionSetting) -> tuple[DetectionSetting, ...]:
    """Three networks trained alike, with other random numbers."""
    return tuple(replace(setting, member=member) for member in range(MEMBERS))


def improvements(plain: DetectionSetting) -> dict[str, tuple[tuple[DetectionSetting, ...], How]]:
    """Appendix B, each row with one thing more than the row before: the trainings it needs, and how they are tested."""
    context = with_context(plain)
    return {
        PLAIN: ((plain,), "as trained"),
        REFINED: ((plain,), "refined"),
        CONTEXT: ((context,), "refined"),
        SCALES: ((context,), "improved"),
        ENSEMBLE: (ensemble(context), "improved"),
    }


def each_adds(rows: dict[str, str], last: str, metric: str) -> tuple[Claim, ...]:
    """That every improvement up to `last` adds to those before it in a metric.  rows: the name of each one's row."""
    pairs = pairwise(CHAIN[: CHAIN.index(last) + 1])
    return tuple(
        Claim(text=f"{better.removeprefix('+ ').capitalize()} adds {metric}", rising=(rows[before], rows[better]))
        for before, better in pairs
    )


# --- localization (tables 13 and 14) -----------------------------------------------------------------------------

TRUE, TOP5 = "% error, class given", "% top-5 error"  # of the box of a class that is given, or of five predicted ones
ONE_SCALE, DENSE = "region proposals, one scale", "region proposals, five scales"
NAMED, SECOND = f"{DENSE}, classes of a classifier", "region proposals and R-CNN, five scales, classes of a classifier"
LOCALIZED: dict[str, tuple[str, Measure, str]] = {
    ONE_SCALE: (
        TRUE,
        localization_error("given_class_error"),
        "the whole image at one scale, where the paper looks at its central crop",
    ),
    DENSE: (TRUE, localization_error("given_class_error", dense=True), ""),
    NAMED: (TOP5, localization_error("top5_error", dense=True, named=True), ""),
    SECOND: (TOP5, localization_error("top5_error", dense=True, named=True, second=True), ""),
}
"""Table 13's methods of one network: the unit of each, its measure, and what there is to note."""


def localizes(
    name: str, method: str, settings: tuple[AnySetting, ...], *, seeds: int, paper: Printed | None = None
) -> Row:
    """A row of one of the methods.  settings: the localizer, and the classifier that names classes if it is a run."""
    unit, measure, note = LOCALIZED[method]
    return Row(name=name, unit=unit, paper=paper, settings=settings, measure=measure, seeds=seeds, note=note)


def narrows(rows: dict[str, str]) -> tuple[Claim, ...]:
    """What table 13 says of one network.  rows: the name of each method's row."""
    return (
        Claim(text="Five scales are better than one", rising=(rows[DENSE], rows[ONE_SCALE])),
        Claim(text="R-CNN on the proposals is better than the proposals", rising=(rows[SECOND], rows[NAMED])),
    )
