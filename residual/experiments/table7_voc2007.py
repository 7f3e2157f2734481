"""Table 7 in small: a shallower and a deeper trunk under the same Faster R-CNN, on PASCAL VOC 2007, train and val.

    residual reproduce table7-voc2007 --data voc07=DIR --data resnet18-tiny-imagenet=RUN \\
        --data resnet34-tiny-imagenet=RUN

The trunks are trained on Tiny ImageNet first, with `residual train`.  Images of 300 pixels, ten passes.
"""

from dataclasses import replace

from residual.recipes.detection import at_side, voc
from residual.reproduce.detection_measures import precision, voc07
from residual.reproduce.experiment import Claim, DetectionSetting, Experiment, Row

SIDE, PASSES = 300, 10
TRUNKS = {"ResNet-18": "resnet18", "ResNet-34": "resnet34"}
RECIPE = replace(
    voc(), name="voc-half-size", iterations=None, epochs=PASSES, augmentation=at_side(voc().augmentation, SIDE)
)

experiment = Experiment(
    name="table7-voc2007",
    title="Object detection on PASCAL VOC 2007 val, baseline Faster R-CNN on small trunks",
    source="after table 7 of arXiv 1512.03385",
    claim="Under the same detector a deeper trunk finds objects better.",
    rows=tuple(
        Row(
            name=name,
            unit="% mAP",
            settings=(
                DetectionSetting(
                    model=f"faster_rcnn_{trunk}_c4", recipe=RECIPE, data="voc07", trunk=f"{trunk}-tiny-imagenet"
                ),
            ),
            measure=precision(voc07),
            seeds=3,
        )
        for name, trunk in TRUNKS.items()
    ),
    claims=(Claim(text="34 layers find objects better than 18", rising=tuple(TRUNKS)),),
    data=("voc07", *(f"{trunk}-tiny-imagenet" for trunk in TRUNKS.values())),
    twin_of="table7",
)
