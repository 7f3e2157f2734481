"""residual predict: class names and probabilities for images."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from residual.cli.terminal import printable


def predict(
    weights: Annotated[
        Path, typer.Argument(metavar="RUN|WEIGHTS", help="A run folder, a file of weights, or resnet20_cifar10.")
    ],
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE|DIR", help="Files or folders; - reads one image from standard input.")
    ],
    top: Annotated[int, typer.Option(metavar="N", help="How many classes to name.", min=1)] = 5,
    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu, cuda, mps.")] = "auto",
    workers: Annotated[int, typer.Option(metavar="N", help="Processes that decode images.", min=0)] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per image.")] = False,
) -> None:
    """Say what is in each image.

    One that cannot be read is named with its reason, and the exit code is 1; it is 2 when none could be read.
    """
    from residual.serve.predict import STDIN
    from residual.serve.predict import predict as predictions
    from residual.train.precision import keep_freed_memory, pick_device
    from residual.weights.sources import load

    for path in images:
        if path != STDIN and not Path(path).exists():
            raise ValueError(f"there is no {path!r}; give image files, folders of images, or - for standard input")
    keep_freed_memory()
    model = load(weights)
    model.to(pick_device(device))
    bad = count = 0
    for found in predictions(model, model.card, images, top=top, workers=workers):
        count += 1
        bad += found.problem is not None
        if as_json:
            print(json.dumps(asdict(found)), flush=True)
            continue
        if found.problem is not None:
            print(printable(f"{found.path}: not used: {found.problem}"), flush=True)
        else:
            pairs = zip(found.classes, found.probabilities, strict=True)
            said = ", ".join(f"{each} {100 * share:.1f} %" for each, share in pairs)
            print(printable(f"{found.path}: {said}"), flush=True)
    if bad == count:
        raise ValueError(
            f"there is no image that can be read in {', '.join(images[:5])}; predict reads JPEG, PNG, WebP, BMP and GIF"
        )
    if bad:
        raise typer.Exit(1)
