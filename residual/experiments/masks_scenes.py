"""Masks of objects: the cascade of three stages and of five, and Mask R-CNN, on drawn scenes.

    residual reproduce masks-scenes

The cascade, on ResNet-101, is what the paper's authors won COCO's segmentation of 2015 with (Dai et al. 2015); Mask
R-CNN replaced it two years later (He et al. 2017).  Small networks on images of 96 pixels, from random weights.
"""

from residual.reproduce.detection_measures import coco_masks, precision
from residual.reproduce.detectors import on_scenes
from residual.reproduce.experiment import Claim, Experiment, Row

NETWORKS = {"MNC, 3 stages": "mnc_small", "MNC, 5 stages": "mnc5_small", "Mask R-CNN": "mask_rcnn_small_c4"}

experiment = Experiment(
    name="masks-scenes",
    title="Masks of objects on drawn scenes, by cascades and by Mask R-CNN",
    source="after arXiv 1512.04412 and table 1 of arXiv 1703.06870",
    claim="Judging the boxes once more improves the cascade, and Mask R-CNN is better than either.",
    rows=tuple(
        Row(
            name=name,
            unit="% mask mAP@[.5, .95]",
            settings=(on_scenes(model),),
            measure=precision(coco_masks("AP")),
            seeds=3,
        )
        for name, model in NETWORKS.items()
    ),
    claims=(
        Claim(text="Five stages are better than three", rising=("MNC, 3 stages", "MNC, 5 stages")),
        Claim(text="Mask R-CNN is better than the cascade of five stages", rising=("MNC, 5 stages", "Mask R-CNN")),
    ),
    data=("scenes:4000",),
)
