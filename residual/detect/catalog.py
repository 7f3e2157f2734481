"""The detectors by name: a way to detect, a trunk of `residual models`, and what stands on it.

    faster_rcnn_resnet101_c4   the paper's              faster_rcnn_vgg16          its baseline
    faster_rcnn_resnet101_c4_context                    with global context (appendix B)
    faster_rcnn_resnet50_fpn   on a feature pyramid     mask_rcnn_resnet50_c4, mask_rcnn_resnet50_fpn
    mnc_resnet101, mnc5_resnet101                       cascades of three and of five stages
    localizer_resnet101                                 proposals per class, then R-CNN (appendix C)

The trunk "small" is for images of about a hundred pixels, from random weights, in minutes on a laptop: two stages of
two blocks, of which the first sees the image and the second each region; what stands on it was chosen on drawn scenes.
Under a pyramid it has four stages of one block, for many small objects on larger images, in less than an hour; what
stands on it was chosen on nuclei under the microscope.  As classifiers, which `--trunk` takes,
they are small_c4, small_fpn and small_localizer of `residual models`.
"""

import re
from dataclasses import dataclass, replace
from typing import Literal, cast

from residual.detect.card import Described
from residual.detect.cascade import CascadeDescription
from residual.detect.faster_rcnn import DetectorDescription
from residual.detect.localize import LocalizerDescription
from residual.detect.masks import MaskDescription
from residual.detect.proposals import ProposalDescription
from residual.detect.pyramid import PyramidDescription
from residual.detect.regions import RegionDescription
from residual.detect.trunk import Norm
from residual.models.catalog import describe
from residual.models.description import Description

SIDE = 600  # pixels, of the images on which anchors are told
SMALL = describe("small_c4")
SMALL_PYRAMID = describe("small_fpn")
SMALL_LOCALIZER = describe("small_localizer")
NAMES = (
    "faster_rcnn_resnet50_c4", "faster_rcnn_resnet101_c4", "faster_rcnn_resnet101_c4_context", "faster_rcnn_vgg16",
    "faster_rcnn_resnet50_fpn", "faster_rcnn_small_c4", "faster_rcnn_small_fpn", "mask_rcnn_resnet50_c4",
    "mask_rcnn_resnet50_fpn", "mask_rcnn_small_c4", "mask_rcnn_small_fpn", "mnc_resnet101", "mnc5_resnet101",
    "mnc_vgg16", "mnc_small", "localizer_resnet101", "localizer_small",
)  # fmt: skip
PATTERN = re.compile(r"(faster_rcnn|mask_rcnn|mnc5?|localizer)_(.+?)(?:_(c4|fpn))?(_context)?")

Way = Literal["faster_rcnn", "mask_rcnn", "mnc", "mnc5", "localizer"]


@dataclass(frozen=True, kw_only=True)
class Named:
    """What a name says.  trunk: a network of the catalog, or "vgg16"."""

    way: Way
    trunk: Description | Literal["vgg16"]
    pyramid: bool
    context: bool


def named(name: str) -> Named:
    """What a name says; refuses one that cannot be."""
    found = PATTERN.fullmatch(name)
    if found is None:
        raise ValueError(f"no detector is called {name!r}; for example: {', '.join(NAMES)}")
    way, trunk, stands, context = cast(tuple[Way, str, str | None, str | None], found.groups())
    if way in ("faster_rcnn", "mask_rcnn"):
        if stands is None and trunk != "vgg16":
            raise ValueError(f"{name!r} does not say what it stands on: {name}_c4 or {name}_fpn")
    elif stands is not None or context:
        raise ValueError(f"{name!r}: {way} stands on one map, so its name ends with the trunk: {way}_{trunk}")
    if trunk == "vgg16":
        if way == "localizer" or stands == "fpn":
            raise ValueError(f"{name!r}: VGG-16 is the baseline of faster_rcnn, mask_rcnn and mnc; take a ResNet here")
        return Named(way=way, trunk="vgg16", pyramid=False, context=context is not None)
    if trunk == "small":
        network = SMALL_LOCALIZER if way == "localizer" else SMALL_PYRAMID if stands == "fpn" else SMALL
    else:
        network = describe(trunk)
    return Named(way=way, trunk=network, pyramid=stands == "fpn", context=context is not None)


def describe_detector(
    name: str,
    classes: tuple[str, ...],
    *,
    side: int = SIDE,
    anchors: tuple[float, ...] = (128.0, 256.0, 512.0),
    norm: Norm = "batch",
    frozen: bool = False,
    trunk: Description | None = None,
) -> Described:
    """The detector called `name`, for these classes and images of a shorter side of `side` pixels.

    anchors: their sides on images of 600 pixels; they shrink and grow with the images.  norm, frozen: see
    `DetectorDescription`.  trunk: of trained weights, in place of the named network.
    """
    told = named(name)
    network = told.trunk if trunk is None else trunk
    small = isinstance(network, Description) and shape(network) in map(shape, (SMALL, SMALL_PYRAMID, SMALL_LOCALIZER))
    sizes = tuple(anchor * side / SIDE for anchor in anchors)
    proposals = ProposalDescription(sizes=sizes)
    regions = RegionDescription(context=told.context)
    masks = MaskDescription()
    if small:
        proposals = replace(
            proposals, shapes=(1.0,), width=64, batch=64, before=(200, 200), after=(100, 100), smallest=4.0
        )
        regions = replace(regions, cut="align", pooled=8, batch=16, share=0.5, overlap=0.5, score=0.01)
        masks = replace(masks, width=64)
    if told.way == "localizer":
        assert isinstance(network, Description)
        localizer = LocalizerDescription(
            trunk=replace(network, classes=len(classes)), sizes=sizes, norm="batch" if frozen else norm, frozen=frozen
        )
        if not small:
            return localizer
        return replace(
            localizer, shapes=(1.0,), width=128, positive=0.5, negative=0.4, batch=32, side=side // 2, candidates=50
        )
    if told.way in ("mnc", "mnc5"):
        cascade = CascadeDescription(
            trunk=network,
            classes=classes,
            stages=5 if told.way == "mnc5" else 3,
            proposals=proposals,
            regions=regions,
            norm=norm,
            frozen=frozen,
        )
        return replace(cascade, warped=16, pooled=8, hidden=128, mask=15) if small else cascade
    pyramid = PyramidDescription() if told.pyramid else None
    if told.pyramid:  # the paper's scale of anchors starts at the finest map, and grows with the stride
        sizes = (min(sizes) / 4,)
        proposals = ProposalDescription(sizes=sizes, before=(2000, 1000), after=(2000, 1000), width=256)
        regions = replace(regions, cut="align", batch=512, overlap=0.5)
        masks = replace(masks, convs=4)
    if told.pyramid and small:
        pyramid = PyramidDescription(width=64, hidden=256)
        proposals = replace(proposals, width=64, positive=0.6, batch=128, before=(500, 1000), after=(300, 500))
        regions = RegionDescription(cut="align", context=told.context, batch=48, share=0.33, overlap=0.45, most=400)
        masks = MaskDescription(width=64, convs=2, pooled=7)
    return DetectorDescription(
        trunk=network,
        classes=classes,
        pyramid=pyramid,
        proposals=proposals,
        regions=regions,
        masks=masks if told.way == "mask_rcnn" else None,
        norm="batch" if frozen else norm,
        frozen=frozen,
    )


def shape(network: Description) -> tuple[str, tuple[int, ...], tuple[int, ...]]:
    """What makes a trunk this one, whatever its classes and images."""
    return network.block, network.depths, network.widths
