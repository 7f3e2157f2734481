"""residual data check DIR: what is wrong with my data, before training."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from residual.cli.terminal import next_step, printable, working

if TYPE_CHECKING:
    from residual.data.check import Alike

app = typer.Typer(help="Look at data before training on it.", rich_markup_mode=None)
SHOWN = 20  # problems and pairs of each kind


@app.callback()
def data() -> None:
    """Keep `check` a command of its own beside those to come."""


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
        found = look(open_dataset(where, workers=workers, progress=progress))
    if as_json:
        print(json.dumps(asdict(found), indent=2))
        return
    print(found.origin)
    for split, classes in found.counts.items():
        smallest, largest = min(classes, key=classes.__getitem__), max(classes, key=classes.__getitem__)
        print(
            f"  {split:10} {sum(classes.values()):,} images of {len(classes)} classes, from {classes[smallest]:,} "
            f"({smallest}) to {classes[largest]:,} ({largest})"
        )
    if found.sizes:
        common = sorted(found.sizes.items(), key=lambda item: -item[1])[:3]
        print("  sizes      " + ", ".join(f"{size} ({count:,})" for size, count in common))
    if found.imbalance > 3:
        print(f"  imbalance  the largest class has {found.imbalance:.1f} times as many training images as the smallest")
    _list("files left out", [f"{problem.path}: {problem.reason}" for problem in found.problems])
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
