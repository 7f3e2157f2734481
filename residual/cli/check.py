"""residual data check DIR: what is wrong with my data, before training; residual data pack: make it quick to read."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from residual.cli.terminal import next_step, printable, working

if TYPE_CHECKING:
    from residual.data.check import Alike

app = typer.Typer(help="Look at data before training on it, or pack it.", rich_markup_mode=None)
SHOWN = 20  # problems and pairs of each kind


@app.command("check")
def check(
    where: Annotated[str, typer.Argument(metavar="DIR", help="A folder, or cifar10, cifar100, digits, shapes.")],
    workers: Annotated[int, typer.Option(metavar="N", help="Processes that decode images.", min=0)] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Count classes, name damaged files, find duplicates.

    Duplicates are equal or look alike, within a split or across two.  Writes nothing into the folder.
    """
    from residual.data.check import check as look
    from residual.data.sources import open_dataset

    with working("reading the images") as progress:
        found = look(open_dataset(where, workers=workers, progress=progress, lenient=True))
    if as_json:
        print(json.dumps(asdict(found), indent=2))
        return
    print(printable(found.origin))
    for split, classes in found.counts.items():
        smallest, largest = min(classes, key=classes.__getitem__), max(classes, key=classes.__getitem__)
        print(
            printable(
                f"  {split:10} {sum(classes.values()):,} images of {len(classes)} classes, from {classes[smallest]:,} "
                f"({smallest}) to {classes[largest]:,} ({largest})"
            )
        )
    if found.sizes:
        common = sorted(found.sizes.items(), key=lambda item: -item[1])[:3]
        print("  sizes      " + ", ".join(f"{size} ({count:,})" for size, count in common))
    if found.imbalance > 3:
        print(f"  imbalance  the largest class has {found.imbalance:.1f} times as many training images as the smallest")
    _list("problem(s)", [f"{problem.path}: {problem.reason}" for problem in found.problems])
    _list("set(s) of equal images", [_told(each) for each in found.duplicates])
    _list("pair(s) of images in two splits that look alike", [_told(each) for each in found.near_duplicates])
    _list("notes", list(found.notes))
    leaks = sum(each.across_splits for each in (*found.duplicates, *found.near_duplicates))
    if leaks:
        print(f"{leaks} of these stand in two splits: what is trained on would be tested on.")
    contradictions = sum(each.across_classes for each in (*found.duplicates, *found.near_duplicates))
    if contradictions:
        print(f"{contradictions} of these stand in two classes: their labels contradict each other.")
    print(next_step("train", "--model", "resnet18", "--data", where))


@app.command("pack")
def pack(
    where: Annotated[str, typer.Argument(metavar="DIR", help="A folder of images, parquet files or tar files.")],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="A folder that does not exist yet.")],
    shorter: Annotated[
        int | None, typer.Option(metavar="PIXELS", help="Shrink longer shorter sides to this.  [default: keep files]")
    ] = None,
    quality: Annotated[int, typer.Option(metavar="Q", help="Of the JPEGs that shrinking makes.", min=1, max=95)] = 90,
    seed: Annotated[int, typer.Option(metavar="N", help="Decides what is held out where there is no split.")] = 0,
    workers: Annotated[int, typer.Option(metavar="N", help="Processes that decode images.", min=0)] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write the good images into a few large tar files.

    They open at once and read fast.

    Shrinking changes what is trained on, and is said so in the record, TARGET/pack.json.  Cut off, the same command
    goes on where it stopped.
    """
    from residual.data.pack import write_pack
    from residual.data.shrink import Shrink
    from residual.data.sources import list_images

    source = Path(where).expanduser()
    if not source.is_dir():
        raise ValueError(f"{where} is no folder; a pack is made of a folder of images, parquet files or tar files")
    if target.resolve().is_relative_to(source.resolve()):
        raise ValueError(f"{target} lies inside {where}, which is never written to; name a folder elsewhere")
    shrink = Shrink(shorter=shorter, quality=quality)
    with working("packing the images") as progress:
        record = write_pack(list_images(source), target, shrink=shrink, seed=seed, workers=workers, progress=progress)
    if as_json:
        print(json.dumps(asdict(record), indent=2))
        return
    for split, part in record.parts.items():
        size = sum(shard.bytes for shard in part.shards)
        print(
            f"  {split:10} {sum(part.counts.values()):,} images of {len(part.counts)} classes, {size / 1e6:,.1f} MB in "
            f"{len(part.shards)} shard(s)"
        )
    if shorter is not None:
        print(f"  shrunk     to a shorter side of {shorter} pixels at most, as JPEG of quality {quality}")
    _list("files left out", [f"{problem.path}: {problem.reason}" for problem in record.left_out])
    print(next_step("train", "--model", "resnet50", "--data", str(target)))


def _told(alike: "Alike") -> str:
    there = zip(alike.splits, alike.names, alike.classes, strict=True)
    return " = ".join(f"{split}: {name}{f' ({label})' * alike.across_classes}" for split, name, label in there)


def _list(title: str, lines: list[str]) -> None:
    if lines:
        print(f"{len(lines):,} {title}:")
        for line in lines[:SHOWN]:
            print(f"  {printable(line)}")
        if len(lines) > SHOWN:
            print(f"  ... and {len(lines) - SHOWN:,} more (--json shows all)")
