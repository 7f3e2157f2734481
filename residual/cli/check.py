"""residual data check DIR: what is wrong with my data, before training; residual data pack: make it quick to read."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from residual.cli.terminal import next_step, printable, working

if TYPE_CHECKING:
    from residual.data.check import Alike
    from residual.data.check_objects import Marked, ObjectCheck
    from residual.data.images import Problem

app = typer.Typer(help="Look at data before training on it, or pack it.", rich_markup_mode=None)
SHOWN = 20  # problems and pairs of each kind
TABLED = 30  # classes that are listed one by one
SMALL = 128  # pixels of the shorter side up to which objects are those of small images
TINY = 40  # pixels of a side up to which a network for CIFAR's images is meant
FEW_TO_DETECT, MANY_TO_TELL = 1_000, 50_000  # training images
CROWDED = 10  # objects on one image


@app.command("check")
def check(
    where: Annotated[
        str, typer.Argument(metavar="DIR", help="A folder, or cifar10, cifar100, digits, shapes, scenes.")
    ],
    lists: Annotated[
        str | None,
        typer.Option(metavar="LISTS", help="Of a VOCdevkit: 07+12, 2007:train/2007:val; of ILSVRC: DET or CLS-LOC."),
    ] = None,
    workers: Annotated[int, typer.Option(metavar="N", help="Processes that decode images.", min=0)] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Count classes and objects, name damaged files, find duplicates.

    Data with objects is known by its layout: a VOCdevkit, COCO's JSON, YOLO's folders, masks, Tiny ImageNet, ImageNet.
    Duplicates are equal or look alike, within a split or across two.  Writes nothing into the folder.

    Ends with 2 if training would refuse the data, and with what to do next otherwise.
    """
    from residual.data.check import check as look
    from residual.data.open_objects import has_objects
    from residual.data.sources import open_dataset

    if lists is not None or has_objects(where):
        _check_objects(where, lists, workers, as_json)
        return
    with working("reading the images") as progress:
        data = open_dataset(where, workers=workers, progress=progress, lenient=True)
        found = look(data)
    if as_json:
        print(json.dumps(asdict(found), indent=2))
        raise typer.Exit(2 if found.faults else 0)
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
    _list_problems(found.faults, found.problems)
    _list("set(s) of equal images", [_told(each) for each in found.duplicates])
    _list("pair(s) of images in two splits that look alike", [_told(each) for each in found.near_duplicates])
    _list("notes", list(found.notes))
    leaks = sum(each.across_splits for each in (*found.duplicates, *found.near_duplicates))
    if leaks:
        print(f"{leaks} of these stand in two splits: what is trained on would be tested on.")
    contradictions = sum(each.across_classes for each in (*found.duplicates, *found.near_duplicates))
    if contradictions:
        print(f"{contradictions} of these stand in two classes: their labels contradict each other.")
    _end(found.faults, *suggested_network(len(data.train), data.train.shape[0]), where)


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
    images = sum(sum(part.counts.values()) for split, part in record.parts.items() if split != "validation")
    _end((), *suggested_network(images, shorter or TINY + 1), str(target))


def _check_objects(where: str, lists: str | None, workers: int, as_json: bool) -> None:
    from residual.data.check_objects import FEW, check_objects
    from residual.data.open_objects import open_objects

    with working("reading the images") as progress:
        found = check_objects(open_objects(where, lists=lists, workers=workers, progress=progress, lenient=True))
    if as_json:
        print(json.dumps(asdict(found), indent=2))
        raise typer.Exit(2 if found.faults else 0)
    print(printable(found.origin))
    _print_counts(found)
    _print_sizes(found)
    few = sorted(found.few.items(), key=lambda item: item[1])
    _list(f"class(es) with fewer than {FEW} training objects", [f"{name}: {count:,}" for name, count in few])
    _list_problems(found.faults, found.problems)
    if len(found.problems) > SHOWN:
        _list("kind(s) of problem", [f"{count:,} times: {kind}" for kind, count in found.kinds.items()])
    _list("note(s)", list(found.notes))
    cut = [f"{_object(each)}, after {each.over:,.0f} pixels beyond the border" for each in found.cut]
    _list("box(es) that reach over their image and were cut to it", cut)
    for split, part in found.parts.items():
        emptied = set(part.emptied)
        why = {name: " (all that were told of were left out)" if name in emptied else "" for name in part.empty}
        _list(f"image(s) without objects in {split}", [name + reason for name, reason in why.items()])
    _list("object(s) that are told twice, with one box and class", [_object(each) for each in found.repeated])
    equal = [zip(each.splits, each.names, strict=True) for each in found.equal]
    _list("set(s) of equal images", [" = ".join(f"{split}: {name}" for split, name in each) for each in equal])
    if leaks := sum(each.across_splits for each in found.equal):
        print(f"{leaks} of these stand in two splits: what is trained on would be tested on.")
    _end(found.faults, *suggested_detector(found), where, *(() if lists is None else ("--lists", lists)))


def suggested_network(images: int, side: int) -> tuple[tuple[str, ...], str]:
    """A classifier for so many training images of a side, as words for `train`, and why it."""
    if side <= TINY:
        return ("resnet20",), "small images"
    if images < MANY_TO_TELL:
        return ("resnet18",), f"{images:,} training images"
    if _accelerated():
        return ("resnet50",), f"{images:,} training images, and a GPU"
    return ("resnet18",), f"{images:,} training images, but no GPU here"


def suggested_detector(found: "ObjectCheck") -> tuple[tuple[str, ...], str]:
    """A detector, as words for `train`, and why it: a large trunk only where it can learn, and soon enough."""
    train, images = found.parts["train"], sum(found.sizes.values())
    shorter = ((min(map(int, size.split("x"))), count) for size, count in found.sizes.items())
    small = sum(count for side, count in shorter if side <= SMALL) > images / 2
    crowded = train.objects >= CROWDED * train.images and train.areas["small"] > train.objects / 2
    way = "mask_rcnn" if found.masks else "faster_rcnn"
    reasons = {"small images": small, "few images": train.images < FEW_TO_DETECT, "no GPU here": not _accelerated()}
    modest = ", ".join(reason for reason, holds in reasons.items() if holds)
    why = modest or "many large images, and a GPU"
    if found.one_class:
        return ("localizer_small" if modest else "localizer_resnet101",), f"one class on an image; {why}"
    if not modest:
        return (f"{way}_resnet50_fpn",), why
    if crowded and not small:
        return (f"{way}_small_fpn", "--recipe", "windows"), f"many small objects on large images; {why}"
    return (f"{way}_small_c4",), why


def _accelerated() -> bool:
    from residual.train.precision import pick_device

    return pick_device().type != "cpu"


def _end(faults: "tuple[Problem, ...]", model: tuple[str, ...], why: str, where: str, *more: str) -> None:
    """The last lines: what to train and why; or that nothing can be trained yet, which is an error."""
    if faults:
        print(f"Training refuses this data; mend the {len(faults):,} fault(s) above.")
        print(next_step("data", "check", where, *more))
        raise typer.Exit(2)
    print(f"Suggested: {model[0]} ({why})")
    print(next_step("train", "--model", *model, "--data", where, *more))


def _list_problems(faults: "tuple[Problem, ...]", problems: "tuple[Problem, ...]") -> None:
    for kind, those in (("fault(s), for which training refuses the data", faults), ("problem(s)", problems)):
        _list(kind, [f"{each.path}: {each.reason}" for each in those])


def _print_counts(found: "ObjectCheck") -> None:
    for split, part in found.parts.items():
        counts = {name: count.objects for name, count in part.classes.items()}
        told = f"  {split:10} {part.images:,} images, {part.objects:,} objects"
        if len(counts) > 1:
            least, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
            told += f" of {len(counts)} classes, from {counts[least]:,} ({least}) to {counts[most]:,} ({most})"
        if part.aside:
            told += f"; {part.aside:,} more are difficult or crowds, and set aside"
        print(printable(told))
    print(printable(f"  split      {found.split['made']}"))
    names = list(found.parts["train"].classes)
    if 1 < len(names) <= TABLED:
        wide = max(map(len, map(printable, names)))
        print("  " + " " * wide + "".join(f"  {split:>20}" for split in found.parts))
        for name in names:
            of = (part.classes[name] for part in found.parts.values())
            cells = (f"{count.objects:,} on {count.images:,}" for count in of)
            print(f"  {printable(name):{wide}}" + "".join(f"  {cell:>20}" for cell in cells))


def _print_sizes(found: "ObjectCheck") -> None:
    common = list(found.sizes.items())[:3]
    fullest = max(found.parts.values(), key=lambda part: part.most)
    print(
        "  images     "
        + ", ".join(f"{size} ({count:,})" for size, count in common)
        + f"{', ...' * (len(found.sizes) > 3)}; at most {fullest.most:,} objects on one: {printable(fullest.fullest)}"
    )
    if found.smallest is None or found.largest is None:
        return
    total = sum(part.objects for part in found.parts.values())
    shares = {kind: sum(part.areas[kind] for part in found.parts.values()) for kind in ("small", "medium", "large")}
    print(
        "  objects    "
        + ", ".join(f"{count / total:.0%} {kind}" for kind, count in shares.items())
        + " (up to 32 x 32 and 96 x 96 pixels, and more)"
    )
    print(printable(f"  smallest   {_object(found.smallest)}"))
    print(printable(f"  largest    {_object(found.largest)}"))
    if found.whole:
        told = f"{len(found.whole):,} box(es) cover nearly all of their image, such as {_object(found.whole[0])}"
        print(printable(f"  whole      {told}"))
    if found.masks:
        print("  masks      can be learned: every object has an outline")
    elif found.without_outline:
        print(f"  masks      cannot be learned: {found.without_outline:,} objects have no outline, others have")
    else:
        print("  masks      cannot be learned: objects have boxes alone")
    (sides, share), *more = found.reached.items()
    print(
        f"  anchors    of {sides} pixels, on images with a shorter side of 600, overlap {share:.0%} of the training "
        f"objects by half at best" + "".join(f"; {others}: {part:.0%}" for others, part in more)
    )


def _object(marked: "Marked") -> str:
    return f"{marked.split}: {marked.name}: {marked.label}, {marked.size} at {marked.box[0]:.0f}, {marked.box[1]:.0f}"


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
