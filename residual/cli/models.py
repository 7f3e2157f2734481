"""residual models [NAME]: the catalog, or one network stage by stage.  No torch, but for a detector."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from residual.cli.terminal import next_step
from residual.cli.train import DETECTORS


def models(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="A network, e.g. resnet50 or resnet74.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the networks, or show one stage by stage.

    With shapes, parameters and multiply-adds, by arithmetic from the description.
    """
    from residual.models.catalog import describe, list_models
    from residual.models.cost import macs, parameters, stages

    if name is None:
        rows = [
            {"name": each, "parameters": parameters(d), "macs": macs(d), "image": d.image, "shortcut": d.shortcut}
            for each in list_models()
            for d in [describe(each)]
        ]
        if as_json:
            _print_json(rows)
            return
        lines: list[tuple[str, ...]] = [("network", "parameters", "multiply-adds", "image", "shortcut")]
        lines += [
            (
                str(row["name"]),
                f"{row['parameters']:,}",
                f"{row['macs']:,}",
                f"{row['image']} px",
                str(row["shortcut"]),
            )
            for row in rows
        ]
        _print_table(lines)
        print(
            "\nAny other legal depth works too (resnet74, plain26), and detectors stand on any of them: "
            "faster_rcnn_resnet101_c4,\nfaster_rcnn_vgg16, mask_rcnn_resnet50_fpn, mnc_resnet101, "
            "localizer_resnet101.  Next: residual models resnet50"
        )
        return
    if name.startswith(DETECTORS):
        _detector(name, as_json)
        return
    description = describe(name)
    table = stages(description)
    if as_json:
        _print_json({"name": name, "description": asdict(description), "stages": [asdict(s) for s in table]})
        return
    lines = [("stage", "output", "blocks", "channels", "parameters", "multiply-adds")]
    lines += [
        (s.name, f"{s.side} px", str(s.blocks or ""), str(s.channels), f"{s.parameters:,}", f"{s.macs:,}")
        for s in table
    ]
    lines.append(("total", "", "", "", f"{parameters(description):,}", f"{macs(description):,}"))
    print(
        f"{name}: {description.block} blocks, shortcut {description.shortcut}, order {description.order}, "
        f"images of {description.image} pixels, {description.classes} classes\n"
    )
    _print_table(lines)
    print("\n" + next_step("train", "--model", name, "--data", "DIR"))


def _detector(name: str, as_json: bool) -> None:
    """What a detector is made of, for PASCAL VOC's 20 classes, part by part."""
    import torch

    from residual.detect.catalog import describe_detector
    from residual.detect.cost import parts, regions_of, side_of
    from residual.detect.detector import network
    from residual.detect.localize import LocalizerDescription

    classes = tuple(f"class {number}" for number in range(20))
    side = side_of(describe_detector(name, classes))
    described = describe_detector(name, classes, side=side)
    regions = regions_of(described)
    table = parts(described, side, regions)
    if as_json:
        with torch.device("meta"):  # its weights are counted, not drawn
            modules = network(described).named_children()
        counts = {module: sum(each.numel() for each in inside.parameters()) for module, inside in modules}
        told = {"name": name, "classes": 20, "image": side, "regions": regions, "description": asdict(described)}
        _print_json(told | {"parameters": counts, "parts": [asdict(part) for part in table]})
        return
    of = " for one class" if isinstance(described, LocalizerDescription) else ""
    print(f"{name}: 20 classes, an image of {side} x {side} pixels, {regions:,} regions of it{of}\n")
    lines: list[tuple[str, ...]] = [("part", "times", "output", "parameters", "multiply-adds")]
    lines += [
        (
            part.name,
            f"{part.times:,}",
            " x ".join(map(str, part.output)),
            f"{part.parameters:,}" if part.parameters else "",
            f"{part.macs:,}",
        )
        for part in table
    ]
    parameters, macs = sum(part.parameters for part in table), sum(part.macs for part in table)
    lines.append(("total", "", "", f"{parameters:,}", f"{macs:,}"))
    _print_table(lines)
    print("\n" + next_step("train", "--model", name, "--data", "VOCdevkit"))


def _print_table(lines: list[tuple[str, ...]]) -> None:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        first, *rest = (
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        print("  ".join([first, *rest]).rstrip())


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=2))
