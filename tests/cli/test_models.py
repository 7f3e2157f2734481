"""residual models NAME of a detector: its parts, in words and as JSON."""

import json
from collections.abc import Callable
from typing import Any

import torch

from residual.detect.catalog import describe_detector
from residual.detect.detector import network


def test_a_detector_is_shown_part_by_part_and_the_columns_add_up(say: Callable[..., Any]):
    said = say("models", "faster_rcnn_resnet101_c4")
    assert (said.code, said.err) == (0, "")
    title, _, head, *rows, total, _, after = said.out.splitlines()
    assert title == "faster_rcnn_resnet101_c4: 20 classes, an image of 600 x 600 pixels, 300 regions of it"
    assert head.split() == ["part", "times", "output", "parameters", "multiply-adds"]
    assert [row.split("  ")[0] for row in rows] == [
        "stem", "stage 1", "stage 2", "stage 3", "proposal network", "head: stage 4", "head: class and box",
    ]  # fmt: skip
    for column in (-1, -2):
        numbers = [int(row.split()[column].replace(",", "")) for row in (*rows, total)]
        assert sum(numbers[:-1]) == numbers[-1]
    assert after == "Next: residual train --model faster_rcnn_resnet101_c4 --data VOCdevkit"


def test_the_json_of_a_detector_tells_the_same_parts(say: Callable[..., Any]):
    told = json.loads(say("models", "mask_rcnn_small_c4", "--json").out)
    assert (told["image"], told["regions"], told["classes"]) == (96, 100, 20)
    assert told["parts"][-1]["name"] == "masks: head"
    assert told["parts"][-1]["output"] == [8, 8, 20]
    with torch.device("meta"):
        net = network(describe_detector("mask_rcnn_small_c4", tuple(map(str, range(20)))))
    assert sum(part["parameters"] for part in told["parts"]) == sum(each.numel() for each in net.parameters())
    counted = {part: sum(each.numel() for each in module.parameters()) for part, module in net.named_children()}
    assert told["parameters"] == counted
    localizer = say("models", "localizer_small").out.splitlines()
    assert localizer[0].endswith("an image of 64 x 64 pixels, 50 regions of it for one class")
    assert "second: stem" in localizer[10]
