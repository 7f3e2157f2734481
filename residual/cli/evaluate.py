"""residual evaluate: the error of trained weights on labelled images."""

import json
import shlex
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from residual.cli.terminal import next_step, printable, refuse_new_file, working

if TYPE_CHECKING:
    from residual.data.images import Dataset, ImageFiles, Images
    from residual.data.transforms import Preprocessing

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
            split, images = _images(weights, data, card.preprocessing, workers)
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


def _images(
    source: Path, data: str | None, preprocessing: "Preprocessing", workers: int
) -> "tuple[str, Images | ImageFiles]":
    run = source if source.is_dir() else source.parent
    known = (run / "run.json").is_file()
    if data is not None:
        return _given(data, run if known else None, preprocessing, workers)
    if not known or run is not source:
        raise ValueError(f"{source} does not say which images to measure on; add --data DIR")
    return _own(run, workers)


def _own(run: Path, workers: int) -> "tuple[str, Images | ImageFiles]":
    """The held-out images of a run, if all of its data is as it was."""
    from residual.pipeline import planned, read_data

    plan = planned(run)
    with working("reading the images") as progress:
        own = read_data(replace(plan, workers=workers), progress)
    now = {split: images.fingerprint for split, images in own.splits().items()}
    for split, then in _fingerprints(run).items():
        if now.get(split) != then:
            raise ValueError(
                f"the {split} images in {plan.data} are not those of {run} (fingerprint {str(now.get(split))[:12]}, "
                f"then {then[:12]}), so its error cannot be measured again; put the data back as it was, or name a "
                "folder of images that it was not trained on with --data"
            )
    held = _held_out(own)
    if held is None:
        raise ValueError(f"the data of {run} has neither test nor validation images; give others with --data DIR")
    return held


def _given(
    data: str, run: Path | None, preprocessing: "Preprocessing", workers: int
) -> "tuple[str, Images | ImageFiles]":
    """Labelled images as the network wants them.  Never those that the run, where it is known, was trained on."""
    from residual.data.sources import open_dataset
    from residual.data.split import hold_out, to_evaluate
    from residual.data.transforms import view
    from residual.pipeline import planned

    plan = None if run is None else planned(run)
    with working("reading the images") as progress:
        whole = open_dataset(
            data,
            size=preprocessing.size,
            view=view(preprocessing),
            seed=0 if plan is None else plan.seed,
            workers=workers,
            progress=progress,
        )
    split, images = to_evaluate(whole)
    if run is None or plan is None:
        return split, images
    trained_on = _fingerprints(run)["train"]
    as_then = whole
    if whole.validation is None and plan.recipe.validation:
        with suppress(ValueError):  # too few images to be those of the run
            as_then = hold_out(whole, plan.recipe.validation, seed=plan.seed)
    if as_then.train.fingerprint == trained_on and (held := _held_out(as_then)) is not None:
        return held
    if images.fingerprint == trained_on or (split == "all" and _same_place(data, plan.data)):
        raise ValueError(
            f"{data} holds images that {run} was trained on, which would flatter it; measure its held-out images: "
            f"residual evaluate {shlex.quote(str(run))}, or name a folder of other images with --data"
        )
    return split, images


def _fingerprints(run: Path) -> dict[str, str]:
    """Of the images a run began with, by split."""
    from residual.records import RunFolder

    described = RunFolder.open(run).description
    try:
        kept = described["data"]
        return dict(kept.get("fingerprints") or {"train": kept["fingerprint"]})
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{run / 'run.json'} does not say which images it was trained on; it is of another version of residual"
        ) from error


def _held_out(data: "Dataset") -> "tuple[str, Images | ImageFiles] | None":
    splits = data.splits()
    return next(((split, splits[split]) for split in ("test", "validation") if split in splits), None)


def _same_place(one: str, other: str) -> bool:
    return one == other or Path(one).expanduser().resolve() == Path(other).expanduser().resolve()


def _tell(which: str, found: dict[str, Any]) -> None:
    names = {"last": "last iteration", "best": "best by validation", "file": "weights"}
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
