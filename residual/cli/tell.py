"""A classifier's error, in words."""

from typing import Any

from residual.cli.terminal import printable


def tell(which: str, found: dict[str, Any]) -> None:
    """Print what was measured.  which: of the weights, by their meaning."""
    names = {
        "last": "last iteration", "best": "best by validation", "file": "weights", "ensemble": "ensemble",
        "average": "averaged weights",
    }  # fmt: skip
    images, error = found["images"], found["top1_error"]
    correct = images - round(error * images / 100)
    low, high = found["interval"]
    split = "" if found["split"] == "all" else f"{found['split']} "
    print(f"{names[which]}: {correct:,} of {images:,} {split}images right")
    chosen = which == "best" and found["split"] == "validation"  # the lowest of many says little of new images
    spread = "no interval: chosen by validation error" if chosen else f"95 % interval {low:.2f} to {high:.2f}"
    print(f"  top-1 error  {error:.2f} %   ({spread})")
    if found.get("top5_error") is not None:
        print(f"  top-5 error  {found['top5_error']:.2f} %")
    print(f"  calibration  {100 * found['ece']:.2f} % expected error of the confidence")
    worst = sorted(found["per_class"], key=lambda row: -(row["error"] or 0))[:3]
    hardest = [f"{row['class']} {row['error']:.1f} %" for row in worst if row["error"] is not None]
    print(printable(f"  hardest      {', '.join(hardest)}"))
    if "protocol" in found:
        from residual.evaluate.protocol import Protocol, words

        print(f"  protocol     {words(Protocol(**found['protocol']))}")


def without_pictures(found: dict[str, Any]) -> dict[str, Any]:
    """An evaluation as it is printed; its pictures are for the file."""
    return {name: value for name, value in found.items() if name != "mistakes"}
