"""What was measured of a detector, in words and tables."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from residual.cli.terminal import printable

if TYPE_CHECKING:
    from rich.table import Table

NAMES = {"last": "last iteration", "best": "best by validation", "file": "weights", "ensemble": "ensemble"}
ROWS = 40  # classes in a table
WIDEST = 160  # letters of a table; it takes no more than it needs


def tell(which: str, found: dict[str, Any], *, masks: bool) -> None:
    """Print what was measured of a detector.  which: of the weights, by their meaning.  masks: it makes some."""
    split = "" if found["split"] == "all" else f"{found['split']} "
    images = f"{found['images']:,} {split}images with {found['objects']:,} objects"
    print(f"{NAMES[which]}: mAP@.5 {found['map50']:.2f} % on {images}")
    chosen = which == "best" and found["split"] == "validation"  # the best of many says little of new images
    low, high = found["interval"]
    spread = "no interval: chosen by validation" if chosen else f"95 % interval {low:.2f} to {high:.2f}"
    print(f"  VOC 2010    {found['map50']:.2f} %   ({spread})")
    print(f"  VOC 2007    {found['voc07']:.2f} %   (precision at 11 recalls)")
    if found.get("coco_missing"):
        print(f"  COCO        not measured: {found['coco_missing']}")
    for title, numbers in (("COCO", found["coco"]), ("COCO masks", found["coco_masks"])):
        if numbers is not None:
            named = ("AP", "AP50", "AP75", "AP small", "AP medium", "AP large", "AR 100")
            told = [f"{name} {numbers[name]:.1f}" for name in named if numbers[name] is not None]
            print(f"  {title:<12}{'   '.join(told)}")
    if found.get("coco_most", 100) > 100:
        print(f"              of the {found['coco_most']} surest answers of a class on an image, not of 100")
    if masks and found["coco"] is not None and found["coco_masks"] is None:
        print("  COCO masks  not measured: not every object of this data has an outline")
    print(f"  procedure   {in_words(found['procedure'])}")
    print(f"  speed       {found['seconds_per_image']:.3g} s per image")
    print(f"  {_causes(found['causes'])}")
    print()
    table = _table("class", "objects", "answers", "AP@.5", "VOC 2007")
    known = [row for row in found["per_class"] if row["ap50"] is not None]
    for row in sorted(known, key=lambda row: float(row["ap50"]))[:ROWS]:
        counts = (f"{row['objects']:,}", f"{row['detections']:,}")
        table.add_row(printable(row["class"]), *counts, f"{row['ap50']:.1f}", f"{row['voc07']:.1f}")
    _show(table, len(known))


def _causes(told: dict[str, Any]) -> str:
    """In a sentence or two."""
    counts, words = told["counts"], {
        "classification": "of another class", "localization": "at a poor place", "both": "both of these",
        "duplicate": "twice on one object", "background": "on nothing",
    }  # fmt: skip
    wrong = {words[cause]: count for cause, count in counts.items() if cause in words and count}
    listed = ", ".join(f"{count:,} {what}" for what, count in wrong.items())
    missed = f"{counts['missed']:,} {'object' if counts['missed'] == 1 else 'objects'} missed"
    total = sum(wrong.values())
    return f"of answers at least {100 * told['score']:.0f} % sure, {total:,} wrong" + (
        f" ({listed}); {missed}" if total else f"; {missed}"
    )


def tell_localizer(which: str, found: dict[str, Any]) -> None:
    """The same of a localizer."""
    split = "" if found["split"] == "all" else f"{found['split']} "
    images = f"{found['images']:,} {split}images"
    low, high = found["interval"]
    chosen = which == "best" and found["split"] == "validation"
    spread = "no interval: chosen by validation" if chosen else f"95 % interval {low:.2f} to {high:.2f}"
    print(f"{NAMES[which]}: localization error {found['given_class_error']:.2f} % with the class given, on {images}")
    print(f"  class given   {found['given_class_error']:.2f} %   ({spread})")
    source = "itself" if found["classes_from"] == "itself" else printable(found["classes_from"])
    print(f"  top-1 error   {found['top1_error']:.2f} %   (classes from {source})")
    print(f"  top-5 error   {found['top5_error']:.2f} %")
    alone = found["classification"]
    print(f"  classes alone {alone['top1_error']:.2f} % top-1, {alone['top5_error']:.2f} % top-5 error")
    sides = f"at shorter sides {', '.join(map(str, found['sides']))} pixels" if found["sides"] else "at one scale"
    print(f"  procedure     {sides}; {'both steps' if found['second'] else 'the first step alone'}")
    print(f"  speed         {found['seconds_per_image']:.3g} s per image")
    print()
    table = _table("class", "images", "error")
    known = [row for row in found["per_class"] if row["error"] is not None]
    for row in sorted(known, key=lambda row: -float(row["error"]))[:ROWS]:
        table.add_row(printable(row["class"]), f"{row['images']:,}", f"{row['error']:.1f}")
    _show(table, len(known))


def tell_rows(rows: list[dict[str, Any]]) -> None:
    """The table of --protocol each: precision, and what each row adds to the one before it."""
    first = rows[0]
    split = "" if first["split"] == "all" else f"{first['split']} "
    print(f"each improvement added to those before it, on {first['images']:,} {split}images")
    print()
    numbers: dict[str, Callable[[dict[str, Any]], float]] = {"mAP@.5": lambda row: row["map50"]}
    if first["coco"] is not None:
        numbers["COCO AP"] = lambda row: row["coco"]["AP"]
    if first["coco_masks"] is not None:
        numbers["masks AP"] = lambda row: row["coco_masks"]["AP"]
    table = _table("", *(word for name in numbers for word in (name, "points")), "s/image")
    before: dict[str, Any] | None = None
    for row in rows:
        words = []
        for number in numbers.values():
            words += [f"{number(row):.1f}", "" if before is None else f"{number(row) - number(before):+.1f}"]
        table.add_row(row["what"], *words, f"{row['seconds_per_image']:.3g}")
        before = row
    _show(table, len(rows))
    low, high = first["interval"]
    print(f"Plain mAP@.5 has a 95 % interval of {low:.1f} to {high:.1f}; the rows are of the same images.")
    if first.get("coco_missing"):
        print(f"COCO AP was not measured: {first['coco_missing']}")


def in_words(procedure: dict[str, Any]) -> str:
    """How an image is looked at, as evaluation.json tells it."""
    kept = not procedure.get("shrink", True)  # a longer shorter side stays as it is
    least = "at least " if kept else ""
    told = [f"shorter side {least}{procedure['side']} pixels, longer at most {procedure['longest']}"]
    if kept:
        told[0] += ", nothing else shrunk"
    if procedure["sides"]:
        larger = ", of larger images in proportion" if kept else ""
        told.append(f"regions at sides {', '.join(map(str, procedure['sides']))}{larger}")
    if procedure["refined"]:
        told.append("boxes judged again")
    if procedure["voters"] is not None:
        told.append("boxes vote")
    return "; ".join(told)


def _table(*columns: str) -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    return table


def _show(table: "Table", rows: int) -> None:
    from rich.console import Console

    Console(highlight=False, markup=False, width=WIDEST).print(table)
    if rows > ROWS:
        print(f"... and {rows - ROWS:,} easier classes, which --json and --out tell")
    print()
