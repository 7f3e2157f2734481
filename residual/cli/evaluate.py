"""residual evaluate: the error of trained weights on labelled images, under a stated protocol."""

import json
from pathlib import Path
from typing import Annotated

import typer

from residual.cli.asked import PROTOCOLS, Asked
from residual.cli.evaluate_objects import evaluate_objects, refuse_others
from residual.cli.explain import explained, tell_why
from residual.cli.lineup import measured, rescored
from residual.cli.subject import open_networks, open_subject
from residual.cli.tell import tell, without_pictures
from residual.cli.terminal import next_step, refuse_new_file


def evaluate(
    weights: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|WEIGHTS|SCORES", help="A run folder, a file of weights or resnet20_cifar10, or kept scores."
        ),
    ],
    data: Annotated[
        str | None, typer.Option(metavar="DIR", help="A folder, or cifar10, ...; left out, the run's own data.")
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="one-crop: a central view; ten-crop: corners, centre, mirrored; multi-scale: whole images at five "
            "scales.  Of a detector: plain, box-refinement, multi-scale, improved, or each, one after the other.  "
            "[default: one-crop, plain]",
        ),
    ] = None,
    size: Annotated[int | None, typer.Option(metavar="PIXELS", help="Side of a crop.")] = None,
    crop: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Share of the shorter side that a crop takes, such as 0.875.")
    ] = None,
    interpolation: Annotated[
        str | None, typer.Option(metavar="FILTER", help="bilinear or bicubic, to resize with.")
    ] = None,
    corners: Annotated[
        str | None,
        typer.Option(metavar="OF", help="ten-crop: square, the central one (the paper), or image, all of it (Torch)."),
    ] = None,
    scales: Annotated[
        str | None,
        typer.Option("--scales", "--sides", metavar="N,N,...", help="multi-scale, localizers: shorter sides, pixels."),
    ] = None,
    flips: Annotated[
        bool | None, typer.Option("--flips/--no-flips", help="Whether views are also seen mirrored.")
    ] = None,
    average: Annotated[
        str | None, typer.Option(metavar="WHAT", help="Over views and networks: probabilities or logits.")
    ] = None,
    positions: Annotated[
        str | None, typer.Option(metavar="WHAT", help="multi-scale, over positions: logits or probabilities.")
    ] = None,
    precision: Annotated[str | None, typer.Option(metavar="FORMAT", help="float32 or bfloat16.")] = None,
    ensemble: Annotated[
        list[Path] | None, typer.Option(metavar="RUN|WEIGHTS", help="Average its scores in; may be given again.")
    ] = None,
    swa: Annotated[
        list[Path] | None,
        typer.Option(metavar="RUN|WEIGHTS", help="Average its weights in, checkpoints too; may be given again."),
    ] = None,
    train_data: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Training images for batch-norm statistics; left out, the run's own."),
    ] = None,
    keep_scores: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep every view's scores; evaluate FILE combines them again.")
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Why does my number differ?  Measure one change at a time.")
    ] = False,
    claimed: Annotated[
        float | None, typer.Option(metavar="PERCENT", help="With --explain: the error that somebody else found.")
    ] = None,
    classes: Annotated[
        Path | None, typer.Option(metavar="RUN|WEIGHTS", help="Localizers: a classifier that tells the five classes.")
    ] = None,
    one_step: Annotated[bool, typer.Option("--one-step", help="Localizers: without the second step.")] = False,
    lists: Annotated[
        str | None,
        typer.Option(metavar="LISTS", help="Detectors: as in training, 2007:train/2007:val; what they hold out."),
    ] = None,
    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu, cuda, mps.")] = "auto",
    workers: Annotated[int, typer.Option(metavar="N", help="Processes that decode images.", min=0)] = 2,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the whole evaluation to this JSON file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure the error on labelled images.

    Top-1 and top-5 error with its interval, errors per class, calibration.  Of a run both the last
    weights and those best by validation are measured, each under its name; of an ensemble, an average
    of weights, kept scores and --explain the last ones.

    Of a detector: average precision, by VOC's rules and by COCO's, per class, and the causes of its
    mistakes; of a localizer the localization error.
    """
    from residual.detect.weights import holds_detector

    if holds_detector(weights):
        refuse_others({
            "--size": size, "--crop": crop, "--interpolation": interpolation, "--corners": corners, "--flips": flips,
            "--average": average, "--positions": positions, "--precision": precision, "--swa": swa,
            "--train-data": train_data, "--keep-scores": keep_scores, "--explain": explain, "--claimed": claimed,
        })  # fmt: skip
        evaluate_objects(
            weights, data=data, lists=lists, protocol=protocol, scales=scales, ensemble=ensemble or [],
            classes=classes, one_step=one_step, device=device, workers=workers, out=out, as_json=as_json,
        )  # fmt: skip
        return
    if classes is not None or one_step:
        misplaced = "--classes" if classes is not None else "--one-step"
        raise ValueError(f"{misplaced} is of a localizer's test, and {weights} holds none; leave it out")
    if lists is not None:
        raise ValueError(
            f"--lists {lists} chooses among images with objects, for a detector, and {weights} holds none; leave it out"
        )
    if protocol is not None and protocol not in PROTOCOLS:
        raise ValueError(f"there is no protocol {protocol!r}; choose one of: {', '.join(PROTOCOLS)}")
    for name, chosen, allowed in (
        ("--average", average, ("probabilities", "logits")),
        ("--positions", positions, ("probabilities", "logits")),
        ("--corners", corners, ("square", "image")),
        ("--interpolation", interpolation, ("bilinear", "bicubic")),
        ("--precision", precision, ("float32", "bfloat16")),
    ):
        if chosen not in (None, *allowed):
            raise ValueError(f"{name} {chosen} is not known; it is {' or '.join(allowed)}")
    if train_data is not None and not (swa or explain):
        raise ValueError(f"--train-data {train_data} serves --swa and --explain; leave it out, or add one of them")
    if claimed is not None and not (explain and 0 <= claimed <= 100):
        raise ValueError(f"--claimed {claimed} is an error in percent, 0 to 100, to be explained: add --explain")
    alone = [
        name for name, given in (("--ensemble", ensemble), ("--swa", swa), ("--keep-scores", keep_scores)) if given
    ]
    if explain and alone:
        raise ValueError(
            f"--explain varies one network's test, so it does not go with {alone[0]}; leave one of them out"
        )
    if out is not None and keep_scores is not None and out.resolve() == keep_scores.resolve():
        raise ValueError(f"--out and --keep-scores both name {out}, and one would replace the other; choose two files")
    for new in (out, keep_scores):
        if new is not None:
            refuse_new_file(new)

    asked = Asked(
        name=protocol or PROTOCOLS[0], size=size, crop=crop, interpolation=interpolation, corners=corners,
        scales=scales, flips=flips, average=average, positions=positions, precision=precision,
    )  # fmt: skip

    from residual.evaluate.kept import holds_scores
    from residual.records import write_json

    if holds_scores(weights):
        others = {"--data": data, "--train-data": train_data, "--swa": swa, "--keep-scores": keep_scores}
        given = [name for name, value in others.items() if value is not None] + ["--explain"] * explain
        if wrong := given + asked.of_views():
            raise ValueError(f"{weights} holds scores, not a network, so {wrong[0]} cannot be; give the run or weights")
        found = rescored([weights, *(ensemble or ())], average)
    else:
        paths, models = open_networks(weights, first=explain or bool(alone))
        asked.protocol(next(iter(models.values())).card.preprocessing)  # refused before images are read
        subject = open_subject(weights, paths, models, data, device, workers)
        if explain:
            found = explained(subject, asked, train_data, claimed)
        else:
            found = measured(subject, asked, ensemble or [], swa or [], train_data, keep_scores)
    if out is not None:
        write_json(out, found)
    if as_json:
        slim = found if explain else {which: without_pictures(each) for which, each in found.items()}
        print(json.dumps(slim, indent=2))
        return
    if explain:
        tell_why(found)
        if claimed is None:
            print(next_step("evaluate", weights, "--explain", "--claimed", "PERCENT"))
        else:
            print(next_step("predict", weights, "IMAGE"))
        return
    for which, each in found.items():
        tell(which, each)
    if keep_scores is not None:
        print(next_step("evaluate", keep_scores))
    elif holds_scores(weights):
        print(next_step("evaluate", weights, "--ensemble", "SCORES"))
    else:
        print(next_step("predict", weights, "IMAGE"))
