"""COCO's twelve numbers, by faster-coco-eval (the extra `detect`), which agrees with the official pycocotools."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from residual.data.objects import Objects
from residual.detect.detections import Detections
from residual.detect.precision import refuse_unequal

NUMBERS = ("AP", "AP50", "AP75", "AP small", "AP medium", "AP large",
           "AR 1", "AR 10", "AR 100", "AR small", "AR medium", "AR large")  # fmt: skip


def coco_numbers(
    detections: Sequence[Detections],
    objects: Sequence[Objects],
    classes: int,
    *,
    of: Literal["bbox", "segm"] = "bbox",
    most: int = 100,
) -> dict[str, float | None]:
    """Average precision and recall in percent, by name; None where no object has the size.

    AP: mean over overlaps .5, .55, ... .95.  small is below 32 x 32 square pixels, large from 96 x 96 on.
    of: "bbox" or "segm", which needs the masks of both.
    most: answers of a class that count on one image, the surest of them; COCO's is 100, and "AR 100" is at `most`.
    """
    refuse_unequal(detections, objects)
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise ValueError("COCO's numbers need the extra `detect`: pip install 'residual[detect]'") from error
    truth, found = COCO(as_coco(objects, classes, of)), COCO()
    found = truth.loadRes(answers) if (answers := as_answers(detections, of)) else found
    if not answers:
        return {name: (0.0 if any(len(here) for here in objects) else None) for name in NUMBERS}
    judge = COCOeval_faster(truth, found, of, print_function=lambda *_: None)
    judge.params.maxDets = [1, 10, most]
    judge.run()
    values = [float(value) for value in judge.stats[: len(NUMBERS)]]
    return {name: None if value < 0 else 100 * value for name, value in zip(NUMBERS, values, strict=True)}


def as_coco(objects: Sequence[Objects], classes: int, of: Literal["bbox", "segm"] = "bbox") -> dict[str, Any]:
    """The truth in COCO's form; ids counted from 1."""
    annotations: list[dict[str, Any]] = []
    for number, here in enumerate(objects, start=1):
        for index in range(len(here)):
            left, top, right, bottom = here.boxes[index].tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": int(here.labels[index]) + 1,
                    "bbox": [left, top, right - left, bottom - top],
                    "area": float(here.areas[index]),
                    "iscrowd": int(here.aside[index]),
                }
            )
            if of == "segm":
                annotations[-1]["segmentation"] = _runs(here.masks, index)
    return {
        "images": [_image(number, here) for number, here in enumerate(objects, start=1)],
        "categories": [{"id": number} for number in range(1, classes + 1)],
        "annotations": annotations,
    }


def as_answers(detections: Sequence[Detections], of: Literal["bbox", "segm"] = "bbox") -> list[dict[str, Any]]:
    """The detections in the form of COCO's results files."""
    answers = []
    for number, found in enumerate(detections, start=1):
        for index in range(len(found)):
            left, top, right, bottom = found.boxes[index].tolist()
            answers.append(
                {
                    "image_id": number,
                    "category_id": int(found.labels[index]) + 1,
                    "bbox": [left, top, right - left, bottom - top],
                    "score": float(found.scores[index]),
                }
            )
            if of == "segm":
                answers[-1]["segmentation"] = _runs(found.masks, index)
    return answers


def _image(number: int, here: Objects) -> dict[str, int]:
    height, width = (1, 1) if here.masks is None else here.masks.shape[1:]  # which only masks need
    return {"id": number, "height": height, "width": width}


def _runs(masks: Any, index: int) -> dict[str, Any]:
    """One mask as COCO's run lengths: column by column, beginning with the pixels outside."""
    if masks is None:
        raise ValueError("precision of masks needs the masks of objects and detections")
    mask = np.asarray(masks[index], np.uint8)
    line = np.concatenate([[0], mask.ravel(order="F"), [0]])
    changes = np.flatnonzero(np.diff(line))
    lengths = np.diff(np.concatenate([[0], changes, [mask.size]]))
    return {"size": list(mask.shape), "counts": lengths.tolist() if mask.any() else [int(mask.size)]}
