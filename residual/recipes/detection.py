"""What a recipe of a detector says, and those that there are.

    modern               from random weights or a trained trunk, whatever the data             (our choice)
    windows              many small objects on images of any size: microscopes, aerial pictures (our choice)
    voc, voc-alternating Faster R-CNN on PASCAL VOC, at once or in its four steps     (section 5.1 of the paper)
    coco                 the paper's on COCO, of 8 GPUs on however many there are
    mnc                  multi-task network cascades                                     (Dai et al. 2015)
    localization         per-class proposals on random crops                                  (appendix C)

The settings and where they stand: docs/differences.md.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from residual.data.vary_objects import ObjectAugmentation
from residual.recipes.recipe import check_training, iterations_of
from residual.train.optimizer import Sgd
from residual.train.precision import Format
from residual.train.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class DetectionRecipe:
    """How a detector is trained: everything that decides the numbers, except network, data, seed and device.

    iterations or epochs: the length, in batches or in passes over the training images; exactly one is given.  Where
        windows are cut, a pass has as many of them as there are images.
    batch: images per iteration, over all processes.
    anchors: square roots of the anchors' areas, pixels, on images whose shorter side is 600.
    trained: what becomes of a trained trunk's batch norm: "frozen", a fixed scale and shift, and the first stage is not
        trained, as in the paper; or as `norm`.  norm: where the trunk's weights are random.
    in_turn: the four steps of Faster R-CNN one after another, each as long as a quarter of the whole, or all at once.
    clip: the longest gradient, over all parameters; None: any.
    average: decay of the moving average of the weights; None: the last weights are the result.
    validation: share of the training images held out where the data has neither validation nor test images; 0: none.
    The side to which images are brought in testing is the greatest of training's.
    """

    name: str
    schedule: Schedule
    iterations: int | None = None
    epochs: float | None = None
    batch: int = 2
    optimizer: Sgd = field(default_factory=Sgd)
    augmentation: ObjectAugmentation = field(default_factory=ObjectAugmentation)
    anchors: tuple[float, ...] = (128.0, 256.0, 512.0)
    trained: Literal["frozen", "trained"] = "frozen"
    norm: Literal["batch", "group", "sync"] = "group"
    in_turn: bool = False
    clip: float | None = None
    average: float | None = None
    average_every: int = 1
    validation: float = 0.0
    precision: Format = "float32"

    def __post_init__(self) -> None:
        check_training(self)
        if self.batch < 1:
            raise ValueError(f"a batch has at least 1 image, got {self.batch}")
        if not self.anchors or min(self.anchors) <= 0:
            raise ValueError(f"anchors are sides in pixels, above 0, got {self.anchors}")
        if self.in_turn and self.average is not None:
            raise ValueError(
                "the four steps begin anew with some weights, so an average means nothing; set average=None"
            )

    @property
    def side(self) -> int:
        """Shorter side of an image in testing, pixels."""
        return self.augmentation.shorter[1]

    def length(self, images: int) -> int:
        """Iterations in all, for a training set of `images` images."""
        return iterations_of(self, images)


def at_side(augmentation: ObjectAugmentation, side: int) -> ObjectAugmentation:
    """The same with images of a shorter side of so many pixels, the longer one in proportion to 1000 of 600."""
    least, most = augmentation.shorter
    shorter = (max(1, round(side * least / most)), side)
    return replace(augmentation, shorter=shorter, longer=max(side, round(side * augmentation.longer / most)))


def modern() -> DetectionRecipe:
    """Whatever the data: cosine, a short warm-up, an average of the weights; 12 passes."""
    return DetectionRecipe(
        name="modern",
        validation=0.2,
        schedule=Schedule(shape="cosine", rate=0.02, warmup=0.05),
        epochs=12,
        batch=4,
        optimizer=Sgd(decay=1e-4),
        augmentation=ObjectAugmentation(shorter=(600, 600), longer=1000),
        clip=10.0,
        average=0.998,
    )


def modern_small() -> DetectionRecipe:
    """Images of 96 pixels and the trunk "small", from random weights: ten minutes of a core (results/detection)."""
    return DetectionRecipe(
        name="modern",
        validation=0.2,
        schedule=Schedule(shape="cosine", rate=0.1, warmup=0.03),
        iterations=6000,
        batch=8,
        optimizer=Sgd(decay=1e-4, decay_all=False),
        augmentation=ObjectAugmentation(shorter=(96, 96), longer=160),
        anchors=(100.0, 175.0, 275.0),
        clip=5.0,
    )


def localization_small() -> DetectionRecipe:
    """Images of 64 pixels with one object, and the localizer on the trunk "small": ten minutes on two cores."""
    return replace(
        modern_small(),
        schedule=Schedule(shape="cosine", rate=0.1, warmup=0.1),
        iterations=900,
        batch=32,
        optimizer=Sgd(decay=1e-4, nesterov=True),
        augmentation=ObjectAugmentation(shorter=(64, 64), longer=128),
        anchors=tuple(side * 600 / 64 for side in (9, 14, 20, 28, 40, 56)),
        norm="batch",  # of 32 images, with which it was tried
        clip=10.0,
    )


def windows() -> DetectionRecipe:
    """Random windows of fixed size from images of any size, nothing shrunk: for many small objects on each.

    Chosen on the nuclei of the 2018 Data Science Bowl with `mask_rcnn_small_fpn`.
    """
    return DetectionRecipe(
        name="windows",
        validation=0.2,
        schedule=Schedule(shape="cosine", rate=0.04, warmup=0.03),
        iterations=4600,
        batch=4,
        optimizer=Sgd(decay=1e-4, decay_all=False, nesterov=True),
        augmentation=ObjectAugmentation(shorter=(512, 512), longer=4000, window=256, shrink=False, jitter=0.3),
        anchors=(48 * 600 / 512, 96 * 600 / 512, 192 * 600 / 512),
        norm="batch",
        clip=5.0,
    )


def voc() -> DetectionRecipe:
    """Two images at a time, 50,000 steps at 0.001 and 20,000 at a tenth (py-faster-rcnn, end to end, VOC 2007)."""
    return DetectionRecipe(
        name="voc",
        schedule=Schedule(shape="steps", rate=0.001, drops=(5 / 7,)),
        iterations=70_000,
        optimizer=Sgd(decay=5e-4),
    )


def voc_alternating() -> DetectionRecipe:
    """The four steps (Ren et al. 2015, 3.2), 80,000 iterations each.  The authors' code for VOC 07+12 takes as many for
    proposals, and 60,000 for regions."""
    return DetectionRecipe(
        name="voc-alternating",
        schedule=Schedule(shape="steps", rate=0.001, drops=(0.75,)),
        iterations=320_000,
        optimizer=Sgd(decay=5e-4),
        in_turn=True,
    )


def coco() -> DetectionRecipe:
    """The paper's on COCO: 240,000 steps at 0.001 and 80,000 at a tenth, 8 images in each; 12 anchors.

    The paper tells no decay; it is that of the authors' code for VOC.
    """
    return DetectionRecipe(
        name="coco",
        schedule=Schedule(shape="steps", rate=0.001, drops=(0.75,)),
        iterations=320_000,
        batch=8,
        optimizer=Sgd(decay=5e-4),
        anchors=(64.0, 128.0, 256.0, 512.0),
    )


def mnc() -> DetectionRecipe:
    """Of the cascade's authors: 20,000 steps at 0.001 and 5,000 at a tenth, 8 images in each."""
    return DetectionRecipe(
        name="mnc",
        schedule=Schedule(shape="steps", rate=0.001, drops=(0.8,)),
        iterations=25_000,
        batch=8,
        optimizer=Sgd(decay=5e-4),
    )


def localization() -> DetectionRecipe:
    """Random windows brought to 224 pixels, 256 of them at a time; the length is our choice, the paper tells none."""
    return DetectionRecipe(
        name="localization",
        schedule=Schedule(shape="steps", rate=0.001, drops=(0.75,)),
        epochs=20,
        batch=256,
        augmentation=ObjectAugmentation(shorter=(224, 224), longer=448, crop=1.0, least_side=0.875),
        anchors=(64 * 600 / 224, 128 * 600 / 224, 256 * 600 / 224),
    )


RECIPES: dict[str, Callable[[], DetectionRecipe]] = {
    "modern": modern,
    "windows": windows,
    "voc": voc,
    "voc-alternating": voc_alternating,
    "coco": coco,
    "mnc": mnc,
    "localization": localization,
}


def detection_recipe(name: str, model: str) -> DetectionRecipe:
    """The recipe `name` for the detector called `model`; refuses one that is not for it."""
    if name not in RECIPES:
        raise ValueError(f"there is no recipe {name!r} for detectors; choose one of: {', '.join(RECIPES)}")
    made = RECIPES[name]()
    if name == "modern" and "_small" in model and "_fpn" not in model:  # whose images are larger
        made = localization_small() if model.startswith("localizer") else modern_small()
    if made.in_turn and not model.startswith(("faster_rcnn", "mask_rcnn")):
        raise ValueError(f"recipe {name!r} trains the parts of a Faster R-CNN in turn, and {model} is none; use modern")
    return made
