"""residual train: a network, images and a recipe become a run.  A detector learns from images with objects."""

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from residual.cli.terminal import listen, refuse_new_folder

DETECTORS = ("faster_rcnn_", "mask_rcnn_", "mnc_", "mnc5_", "localizer_")  # how their names begin

if TYPE_CHECKING:
    from residual.pipeline import DetectionPlan, Plan


def train(
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="A name of `residual models`, or a detector's: faster_rcnn_resnet101_c4; with --recipe finetune a run "
            "folder or weights file.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="A folder, or cifar10, cifar100, digits, shapes; for a detector a VOCdevkit, COCO JSON, YOLO or mask "
            "folder, or scenes.",
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="modern (default), paper, finetune, wide, ...; for a detector modern, voc, coco, mnc, ...",
        ),
    ] = None,
    trunk: Annotated[
        Path | None,
        typer.Option(metavar="RUN|WEIGHTS", help="A detector's: the trained classifier that it begins with."),
    ] = None,
    lists: Annotated[
        str | None,
        typer.Option(
            metavar="LISTS", help="Of a VOCdevkit: 07+12, 07++12, 2007:train, ...; of ILSVRC: DET or CLS-LOC."
        ),
    ] = None,
    time: Annotated[
        str | None, typer.Option(help="End, annealed, within this time: 90s, 15m, 1h30m.", metavar="DURATION")
    ] = None,
    epochs: Annotated[
        float | None, typer.Option(metavar="N", help="Passes over the images, instead of the recipe's.")
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            metavar="PIXELS",
            help="Side of the square that photographs are brought to; of a detector's images the shorter side.",
        ),
    ] = None,
    accumulate: Annotated[
        int | None,
        typer.Option(metavar="N", help="Parts in which a batch passes through the network, to save memory (1).", min=1),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Decides weights, order and augmentation (0).", min=0)
    ] = None,
    device: Annotated[str | None, typer.Option(metavar="NAME", help="auto (default), cpu, cuda, cuda:1, mps.")] = None,
    workers: Annotated[int | None, typer.Option(metavar="N", help="Processes that decode images (2).", min=0)] = None,
    out: Annotated[Path | None, typer.Option(metavar="RUN", help="The run folder (runs/NAME of the network).")] = None,
    shard_optimizer: Annotated[
        bool,
        typer.Option("--shard-optimizer", help="Under torchrun: each process keeps a share of the optimizer's state."),
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    download: Annotated[bool, typer.Option("--download", help="Fetch cifar10 or cifar100 if absent.")] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write TensorBoard events too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what happens as JSON lines.")] = False,
) -> None:
    """Train a network.

    Stop it whenever you like, with Ctrl-C; `residual train --resume --out RUN` goes on as if nothing had happened.
    """
    budget = None if time is None else seconds(time)
    if budget is not None and epochs is not None:
        raise ValueError(f"--time {time} and --epochs {epochs:g} both set the length; give one of them")
    if epochs is not None and not 0 < epochs < 1e6:
        raise ValueError(f"--epochs is {epochs:g}; a training needs more than 0 passes over the images")
    if size is not None and not 8 <= size <= 2048:
        raise ValueError(f"--size is {size}; images can be 8 to 2048 pixels wide")
    asked: dict[str, object] = {
        "model": model,
        "data": data,
        "seed": seed,
        "size": size,
        "device": device,
        "workers": workers,
        "budget": budget,
        "shard_optimizer": shard_optimizer or None,
        "trunk": None if trunk is None else str(trunk),
        "lists": lists,
    }
    resume = resume or _restarted(out)
    detects = model is not None and model.startswith(DETECTORS)
    if resume:
        folder = _folder_to_resume(out)
    elif not model or not data:
        missing = " and ".join(flag for flag, value in (("--model", model), ("--data", data)) if not value)
        raise ValueError(
            f"{missing} must be given, for example: residual train --model resnet20 --data cifar10; to go on with a "
            "run: residual train --resume --out runs/NAME"
        )
    else:
        if detects and data in ("cifar10", "cifar100", "digits"):
            raise ValueError(
                f"{data} has one class for each image and no boxes; a detector learns from objects: scenes"
            )
        folder = out if out is not None else _free_folder(model)
        refuse_new_folder(folder)
        if detects:
            from residual.detect.catalog import named

            named(model)
        elif recipe != "finetune":
            _refuse_unknown(model)

    from residual import pipeline
    from residual.cli.watch import watch

    stop = pipeline.Stop()
    listen(stop)
    if resume:
        changed: dict[str, object] = {"recipe": recipe, "epochs": epochs, "accumulate": accumulate}
        _refuse_other_settings(folder, pipeline.planned(folder), asked | changed)
        events = pipeline.resume(folder, stop=stop, workers=workers, device=device)
    else:
        if detects:
            others = {"--accumulate": accumulate, "--shard-optimizer": shard_optimizer, "--download": download}
            _refuse_for(model, "a detector", others)
            plan: DetectionPlan | Plan = _detection_plan(asked, recipe or "modern", epochs, tensorboard=tensorboard)
        else:
            _refuse_for(model, "a classifier", {"--trunk": trunk, "--lists": lists})
            _refuse_objects(str(asked["data"]))
            plan = _plan(asked, recipe or "modern", epochs, accumulate, download=download, tensorboard=tensorboard)
        events = pipeline.train(plan, folder, stop=stop)
    if not watch(events, folder, stop=stop, as_json=as_json) and stop.signal:
        raise typer.Exit(128 + stop.signal)


def seconds(duration: str) -> float:
    """ "1h30m", "15m" or "90s" in seconds."""
    parts = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?", duration.strip())
    units = zip(parts.groups(), (3600, 60, 1), strict=True) if parts else ()
    total = sum(float(part or 0) * unit for part, unit in units)
    if total <= 0:
        raise ValueError(
            f"--time {duration!r} is no time to train in; write hours, minutes or seconds: 1h30m, 15m, 90s"
        )
    return total


def _restarted(out: Path | None) -> bool:
    """Whether torchrun starts this again after a process died: then a run that has begun goes on."""
    if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        return False
    if out is None:
        raise ValueError(
            "torchrun has restarted this training, and nothing tells which run it was: give the folder from the "
            "beginning, with --out runs/NAME"
        )
    return (out / "run.json").is_file()


def _refuse_unknown(model: str) -> None:
    from residual.models.catalog import describe

    start = Path(model)
    if start.exists() and (start.is_file() or (start / "run.json").exists()):
        raise ValueError(f"{model} holds trained weights; to go on from them on other data, add --recipe finetune")
    describe(model)


def _plan(
    asked: dict[str, object],
    recipe: str,
    epochs: float | None,
    accumulate: int | None,
    *,
    download: bool,
    tensorboard: bool,
) -> "Plan":
    from residual.models.catalog import describe
    from residual.pipeline import Plan
    from residual.recipes.catalog import recipe_named
    from residual.weights.sources import load

    model = str(asked["model"])
    chosen = recipe_named(recipe, load(model).description if recipe == "finetune" else describe(model))
    if epochs is not None:
        chosen = replace(chosen, epochs=epochs, iterations=None)
    if accumulate is not None:
        chosen = replace(chosen, accumulate=accumulate)
    given = {name: value for name, value in asked.items() if value is not None}
    return Plan(recipe=chosen, download=download, tensorboard=tensorboard, **given)  # type: ignore[arg-type]


def _detection_plan(
    asked: dict[str, object], recipe: str, epochs: float | None, *, tensorboard: bool
) -> "DetectionPlan":
    from residual.pipeline import DetectionPlan
    from residual.recipes.detection import at_side, detection_recipe

    given = {name: value for name, value in asked.items() if value is not None}
    side = given.pop("size", None)
    chosen = detection_recipe(recipe, str(asked["model"]))
    if epochs is not None:
        chosen = replace(chosen, epochs=epochs, iterations=None)
    if isinstance(side, int):
        chosen = replace(chosen, augmentation=at_side(chosen.augmentation, side))
    return DetectionPlan(recipe=chosen, tensorboard=tensorboard, **given)  # type: ignore[arg-type]


def _refuse_for(model: str | None, what: str, options: Mapping[str, object]) -> None:
    for option, value in options.items():
        if value:
            raise ValueError(f"{option} is not for {what}, and {model} is one; leave it out")


def _refuse_objects(data: str) -> None:
    """Images with boxes are no images by class, whatever their folders are called."""
    from residual.data.localization import is_tiny_imagenet
    from residual.data.open_objects import has_objects

    if (
        data not in ("shapes", "scenes")
        and Path(data).exists()
        and not is_tiny_imagenet(Path(data))
        and has_objects(data)
    ):
        raise ValueError(
            f"{data} has images with objects, which a detector learns from: --model faster_rcnn_resnet50_c4, or "
            "faster_rcnn_small_c4 on a laptop; residual data check shows what is in it"
        )


def _folder_to_resume(out: Path | None) -> Path:
    if out is None:
        raise ValueError("--resume needs to know which run: add --out runs/NAME")
    if not (out / "run.json").is_file():
        raise ValueError(
            f"{out} is not a run folder (it has no run.json), so there is nothing to go on with; leave --resume out "
            "to begin a run there"
        )
    return out


def _refuse_other_settings(folder: Path, plan: "Plan | DetectionPlan", asked: dict[str, object]) -> None:
    """A resumed run keeps its settings; one that decides its numbers and is given again must be the same."""
    then = {**vars(plan), **vars(plan.recipe), "recipe": plan.recipe.name}
    if "size" not in then:
        then["size"] = then["augmentation"].shorter[1]
    for name, value in asked.items():
        if name not in ("workers", "device") and value is not None and value != then.get(name):
            flag = "time" if name == "budget" else name
            raise ValueError(
                f"{folder} was started with {flag} {then.get(name)!r}, and --{flag} now says {value!r}; a resumed run "
                f"keeps its settings: leave --{flag} out, or start another run with another --out"
            )


def _free_folder(model: str) -> Path:
    base = Path("runs") / Path(model).name.removesuffix(".safetensors")
    number, folder = 2, base
    while folder.exists():
        folder, number = base.with_name(f"{base.name}-{number}"), number + 1
    return folder
