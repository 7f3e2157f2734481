"""residual evaluate: the error of trained weights on labelled images."""

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from residual.cli.terminal import next_step, printable, refuse_new_file, working

if TYPE_CHECKING:
    from residual.data.images import ImageFiles, Images

PROTOCOLS = ("one-crop",)


def evaluate(
    weights: Annotated[Path, typer.Argument(metavar="RUN|WEIGHTS", help="A run folder or a file of weights.")],
    data: Annotated[
        str | None, typer.Option(metavar="DIR", help="A folder, or cifar10, ...; left out, the run's own data.")
    ] = None,
    protocol: Annotated[
        str, typer.Option(metavar="NAME", help="one-crop: one central view of each image.")
    ] = "one-crop",
    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu, cuda, mps.")] = "auto",
    workers: Annotated[int, typer.Option(metavar="N", help="Processes that decode images.", min=0)] = 2,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the whole evaluation to this JSON file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure the error on labelled images.

    Top-1 and top-5 error with its interval, errors per class, calibration.  Of a run both the last
    weights and those best by validation are measured, each under its name.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"there is no protocol {protocol!r}; choose one of: {', '.join(PROTOCOLS)}")
    if out is not None:
        refuse_new_file(out)

    from residual.evaluate.evaluation import evaluation
    from residual.evaluate.score import align, score
    from residual.records import write_json
    from residual.train.precision import keep_freed_memory, pick_device
    from residual.weights.sources import load

    keep_freed_memory()
    place = pick_device(device)
    found: dict[str, dict[str, Any]] = {}
    for which, path in _weights_in(weights).items():
        model = load(path)
        card = model.card
        if not found:  # the weights of one run see the same images
            split, images = _images(weights, data, card.preprocessing.size, workers)
            images = align(images, card.classes)
        with working(f"measuring {len(images):,} {split} images"):
            scores = score(model.to(place), images, card.preprocessing, place)
        found[which] = evaluation(scores, images, split=split, weights=which)
    if out is not None:
        write_json(out, found)
    if as_json:
        slim = {which: {k: v for k, v in each.items() if k != "mistakes"} for which, each in found.items()}
        print(json.dumps(slim, indent=2))
        return
    for which, each in found.items():
        _tell(which, each)
    print(next_step("predict", weights, "IMAGE"))


def _weights_in(source: Path) -> dict[str, Path]:
    """The weights of a run by their meaning; a single file is just that."""
    if not source.is_dir():
        return {"file": source}
    named = {"last": source / "model.safetensors", "best": source / "best.safetensors"}
    there = {which: path for which, path in named.items() if path.is_file()}
    if not there:
        raise ValueError(
            f"{source} holds no model.safetensors: it is no run folder, or its training has not ended; go on with: "
            f"residual train --resume --out {shlex.quote(str(source))}"
        )
    return there


def _images(source: Path, data: str | None, size: int, workers: int) -> "tuple[str, Images | ImageFiles]":
    from residual.data.assemble import SMALL
    from residual.data.sources import open_dataset
    from residual.data.split import to_evaluate

    if data is not None:
        with working("reading the images") as progress:
            whole = open_dataset(data, size=size if size > SMALL else None, workers=workers, progress=progress)
        return to_evaluate(whole)
    if not (source / "run.json").is_file():
        raise ValueError(f"{source} does not say which images to measure on; add --data DIR")
    from residual.pipeline import planned, read_data

    splits = read_data(planned(source)).splits()
    for split in ("test", "validation"):
        if split in splits:
            return split, splits[split]
    raise ValueError(f"the data of {source} has neither test nor validation images; give others with --data DIR")


def _tell(which: str, found: dict[str, Any]) -> None:
    names = {"last": "last iteration", "best": "best by validation", "file": "weights"}
    images, error = found["images"], found["top1_error"]
    correct = images - round(error * images / 100)
    low, high = found["interval"]
    print(f"{names[which]}: {correct:,} of {images:,} {found['split']} images right")
    print(f"  top-1 error  {error:.2f} %   (95 % interval {low:.2f} to {high:.2f})")
    if found.get("top5_error") is not None:
        print(f"  top-5 error  {found['top5_error']:.2f} %")
    print(f"  calibration  {100 * found['ece']:.2f} % expected error of the confidence")
    worst = sorted(found["per_class"], key=lambda row: -(row["error"] or 0))[:3]
    hardest = [f"{row['class']} {row['error']:.1f} %" for row in worst if row["error"] is not None]
    print(printable(f"  hardest      {', '.join(hardest)}"))
