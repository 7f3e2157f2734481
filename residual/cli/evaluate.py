"""residual evaluate: the error of trained weights on labelled images, under a stated protocol."""

import copy
import json
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from residual.cli.evaluate_objects import evaluate_objects, refuse_others
from residual.cli.subject import (
    Subject,
    load_network,
    mean_of,
    open_networks,
    open_subject,
    pictures_for,
    refuse_trained_on,
    training_of,
    with_statistics,
)
from residual.cli.terminal import next_step, printable, refuse_new_file, working

if TYPE_CHECKING:
    import torch

    from residual.cli.subject import Training
    from residual.data.images import ImageFiles, Images
    from residual.data.transforms import Preprocessing
    from residual.evaluate.look import Member
    from residual.evaluate.protocol import Protocol
    from residual.evaluate.score import Scores
    from residual.weights.sources import Loaded

PROTOCOLS = ("one-crop", "ten-crop", "multi-scale")


def evaluate(
    weights: Annotated[
        Path, typer.Argument(metavar="RUN|WEIGHTS|SCORES", help="A run folder, a file of weights, or kept scores.")
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
            weights, data=data, protocol=protocol, scales=scales, ensemble=ensemble or [], classes=classes,
            one_step=one_step, device=device, workers=workers, out=out, as_json=as_json,
        )  # fmt: skip
        return
    if classes is not None or one_step:
        misplaced = "--classes" if classes is not None else "--one-step"
        raise ValueError(f"{misplaced} is of a localizer's test, and {weights} holds none; leave it out")
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

    asked = _Asked(
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
        found = _rescored([weights, *(ensemble or ())], average)
    else:
        paths, models = open_networks(weights, first=explain or bool(alone))
        asked.protocol(next(iter(models.values())).card.preprocessing)  # refused before images are read
        subject = open_subject(weights, paths, models, data, device, workers)
        if explain:
            found = _explained(subject, asked, train_data, claimed)
        else:
            found = _measured(subject, asked, ensemble or [], swa or [], train_data, keep_scores)
    if out is not None:
        write_json(out, found)
    if as_json:
        slim = {which: _without_mistakes(each) for which, each in found.items()}
        print(json.dumps(slim, indent=2))
        return
    if explain:
        _tell_why(found)
        if claimed is None:
            print(next_step("evaluate", weights, "--explain", "--claimed", "PERCENT"))
        else:
            print(next_step("predict", weights, "IMAGE"))
        return
    for which, each in found.items():
        _tell(which, each)
    if keep_scores is not None:
        print(next_step("evaluate", keep_scores))
    elif holds_scores(weights):
        print(next_step("evaluate", weights, "--ensemble", "SCORES"))
    else:
        print(next_step("predict", weights, "IMAGE"))


# --- what is asked -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """The options of a protocol as they were given; None is left to the network."""

    name: str
    size: int | None
    crop: float | None
    interpolation: str | None
    corners: str | None
    scales: str | None
    flips: bool | None
    average: str | None
    positions: str | None
    precision: str | None

    def of_views(self) -> list[str]:
        """The options that decide the views themselves; their average can still be chosen when they are combined."""
        given = [f"--{name}" for name, value in asdict(self).items() if value is not None]
        return [option for option in given if option not in ("--name", "--average")] + (
            ["--protocol"] if self.name != PROTOCOLS[0] else []
        )

    def protocol(self, preprocessing: "Preprocessing") -> "Protocol":
        """For a network that expects this."""
        from residual.evaluate.protocol import at_size, multi_scale, one_crop, ten_crop

        of_others = {
            "one-crop": ("corners", "scales", "positions"),
            "ten-crop": ("scales", "positions"),
            "multi-scale": ("size", "crop", "corners"),
        }
        if wrong := [name for name in of_others[self.name] if getattr(self, name) is not None]:
            raise ValueError(f"--{wrong[0]} is not of protocol {self.name}; leave it out, or choose another --protocol")
        given = {name: getattr(self, name) for name in ("interpolation", "precision") if getattr(self, name)}
        once = replace(one_crop(preprocessing), **given)
        if self.name == "multi-scale":
            found = multi_scale(once)
            if self.scales is not None:
                found = replace(found, scales=_sides(self.scales))
        else:
            found = at_size(once, self.size, self.crop)
        if self.name == "ten-crop":
            found = ten_crop(found)
        chosen = {name: getattr(self, name) for name in ("corners", "flips", "average", "positions")}
        chosen["pad"] = 0 if self.corners == "image" else None
        return replace(found, **{name: value for name, value in chosen.items() if value is not None})


def _sides(text: str) -> tuple[int, ...]:
    words = text.split(",")
    if not all(word.strip().isdecimal() for word in words):
        raise ValueError(f"--scales {text} is not a list of sides in pixels, such as 224,256,384")
    return tuple(int(word) for word in words)


# --- what is measured ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Lineup:
    """Who is measured: networks, and which of them count as one."""

    members: "list[Member]"
    named: list[str]  # whose weights
    groups: dict[str, slice]  # of the members, by what they are together
    extra: dict[str, Any]  # for the record


def _measured(
    subject: Subject,
    asked: _Asked,
    ensemble: list[Path],
    swa: list[Path],
    train_data: str | None,
    keep: Path | None,
) -> dict[str, dict[str, Any]]:
    """Every network by itself, or all as one; each image is read once for all of them."""
    from residual.evaluate.evaluation import evaluation
    from residual.evaluate.protocol import one_crop
    from residual.evaluate.score import score

    lineup = _line_up(subject, asked, ensemble, swa, train_data)
    images = pictures_for(subject, lineup.members, enlarge=asked.scales is not None)
    usual = all(one.protocol == one_crop(one.preprocessing) for one in lineup.members)
    with working(f"measuring {len(images):,} {subject.pictures.split} images") as progress:
        if usual and keep is None and not ensemble:  # exactly as training measured
            scores = {
                which: score(one.model, subject.images, one.preprocessing, subject.device)
                for which, one in zip(lineup.groups, lineup.members, strict=True)
            }
        else:
            scores = _looked(subject, lineup, images, keep, progress)
    return {
        which: evaluation(one, subject.images, split=subject.pictures.split, weights=which) | lineup.extra
        for which, one in scores.items()
    }


def _line_up(subject: Subject, asked: _Asked, ensemble: list[Path], swa: list[Path], train_data: str | None) -> _Lineup:
    from residual.evaluate.average import STATISTICS

    for path in (*ensemble, *swa):
        refuse_trained_on(subject, path)
    models, extra = dict(subject.models), dict[str, Any]()
    named = [str(path) for path in subject.paths.values()]
    if swa:
        training = training_of(subject, train_data)
        extra = {"averaged": [*named, *map(str, swa)], "statistics_images": min(STATISTICS, len(training[0]))}
        named = ["the mean of " + ", ".join(extra["averaged"])]
        with working(f"measuring batch-norm statistics on {extra['statistics_images']:,} training images"):
            models = {"average": mean_of([subject.model, *map(load_network, swa)], training, subject.device)}
    together = [*models.values(), *(load_network(path).to(subject.device) for path in ensemble)]
    named += map(str, ensemble)
    members = [_member(model, asked, subject) for model in together]
    groups = {which: slice(place, place + 1) for place, which in enumerate(models)}
    if ensemble:
        groups = {"ensemble": slice(None)}
        networks = zip(named, members, strict=True)
        extra["networks"] = [{"weights": name, "protocol": asdict(one.protocol)} for name, one in networks]
    return _Lineup(members=members, named=named, groups=groups, extra=extra)


def _looked(
    subject: Subject,
    lineup: _Lineup,
    images: "Images | ImageFiles",
    keep: Path | None,
    progress: Callable[[int, int], None],
) -> "dict[str, Scores]":
    """The scores of every group, all from one pass over the images."""
    import torch

    from residual.evaluate.look import combined, look, with_progress
    from residual.evaluate.score import Scores

    said = with_progress(look(lineup.members, images, subject.device), len(images), progress)
    if keep is not None:
        said = _kept(keep, subject, lineup, said)
    parts: dict[str, list[torch.Tensor]] = {which: [] for which in lineup.groups}
    protocols = {which: lineup.members[some][0].protocol for which, some in lineup.groups.items()}
    with closing(said):
        for views in said:
            for which, some in lineup.groups.items():
                parts[which].append(combined(views[some], protocols[which].average))
    labels = images.labels.cpu()
    return {which: Scores(torch.cat(part), labels, protocols[which]) for which, part in parts.items()}


def _member(model: "Loaded", asked: _Asked, subject: Subject) -> "Member":
    from residual.evaluate.look import Member, class_order

    card = model.card
    return Member(
        model=model,
        preprocessing=card.preprocessing,
        protocol=asked.protocol(card.preprocessing),
        order=class_order(card.classes, subject.model.card.classes),
    )


def _kept(
    path: Path, subject: Subject, lineup: _Lineup, said: "Generator[list[torch.Tensor]]"
) -> "Generator[list[torch.Tensor]]":
    from residual.evaluate.kept import Contents, Seen, keep_scores
    from residual.evaluate.views import names

    contents = Contents(
        names=tuple(subject.images.names),
        classes=subject.images.classes,
        split=subject.pictures.split,
        networks=tuple(
            Seen(weights=name, protocol=one.protocol, views=tuple(names(one.protocol)))
            for name, one in zip(lineup.named, lineup.members, strict=True)
        ),
    )
    return keep_scores(path, contents, subject.images.labels.cpu(), said)


def _rescored(paths: list[Path], average: str | None) -> dict[str, dict[str, Any]]:
    """Kept scores, combined again; several files are an ensemble."""
    from residual.evaluate.evaluation import evaluation
    from residual.evaluate.kept import open_scores, rescore

    files = [open_scores(path) for path in paths]
    networks = [seen for file in files for seen in file.contents.networks]
    which = "ensemble" if len(networks) > 1 else "file"
    scores = rescore(files, cast(Literal["probabilities", "logits"] | None, average))
    found = evaluation(scores, files[0], split=files[0].contents.split, weights=which)
    seen = [{"weights": one.weights, "protocol": asdict(one.protocol)} for one in networks]
    return {which: found | {"networks": seen}}


# --- why -------------------------------------------------------------------------------------------------


def _explained(subject: Subject, asked: _Asked, train_data: str | None, claimed: float | None) -> dict[str, Any]:
    """One change after the other, on the same images; plain JSON values."""
    from residual.data.images import ImageFiles
    from residual.evaluate.average import STATISTICS
    from residual.evaluate.explain import Setting, best_guess, by_effect, explain, variations
    from residual.evaluate.look import Member, score_views

    preprocessing = subject.model.card.preprocessing
    stated = Setting(protocol=asked.protocol(preprocessing), preprocessing=preprocessing, weights=subject.which)
    training: Training | None = None
    why_not = ""
    try:
        training = training_of(subject, train_data)
    except ValueError as problem:
        if train_data is not None:
            raise
        why_not = str(problem)
    sources = _other_weights(subject, training)
    resized = isinstance(subject.images, ImageFiles) or not subject.pictures.uncut
    planned, without = variations(
        stated,
        weights=tuple(sources),
        exact=0 if training is None else min(STATISTICS, len(training[0])),
        mean_image=None if training is None else _mean_image(training[0], preprocessing),
        originals=resized or subject.images.shape[0] != preprocessing.size,
    )
    if why_not:
        without["batch-norm statistics"] = why_not
    sources[subject.which] = lambda: subject.model

    def score(setting: Setting) -> "Scores":
        model = sources[setting.weights]()
        if setting.statistics == "exact":
            assert training is not None
            model = with_statistics(copy.deepcopy(model), training, subject.device)
        member = Member(model=model, preprocessing=setting.preprocessing, protocol=setting.protocol)
        seen = pictures_for(subject, [member])
        return score_views(model, seen, setting.preprocessing, setting.protocol, subject.device)

    rows = []
    with working("measuring one change at a time") as progress:
        for row in explain(stated, planned, score):
            rows.append(row)
            progress(len(rows), len(planned) + 1)
    return {
        "split": subject.pictures.split,
        "images": len(subject.images),
        "weights": subject.which,
        "protocol": asdict(stated.protocol),
        "top1_error": rows[0].error,
        "changes": [asdict(row) for row in by_effect(rows)[1:]],
        "not_measured": without,
        "claimed": claimed,
        "best_guess": None if claimed is None else best_guess(rows, claimed),
    }


def _other_weights(subject: Subject, training: "Training | None") -> "dict[str, Callable[[], Loaded]]":
    """What else a run folder holds, and how to load it.  Means of weights need training images."""
    from residual.evaluate.average import checkpoint_weights

    found: dict[str, Callable[[], Loaded]] = {}
    if not subject.source.is_dir():
        return found

    def loader(path: Path, part: str | None = None) -> "Callable[[], Loaded]":
        return lambda: load_network(path, part).to(subject.device)

    if (best := subject.source / "best.safetensors").is_file() and subject.paths[subject.which] != best:
        found["best by validation"] = loader(best)
    checkpoints = sorted((subject.source / "checkpoints").glob("step-*.safetensors"))
    parts: dict[str, Any] = {}
    with suppress(ValueError, OSError):  # a damaged checkpoint is no reason to explain nothing
        parts = checkpoint_weights(checkpoints[-1]) if checkpoints else {}
    if "average" in parts:
        found["of the last iteration, without the moving average"] = loader(checkpoints[-1], "model")
    if training is not None and len(checkpoints) > 1:
        mean = f"the mean of {len(checkpoints)} checkpoints"
        found[mean] = lambda: mean_of([load_network(path) for path in checkpoints], training, subject.device)
    return found


def _mean_image(images: "Images | ImageFiles", preprocessing: "Preprocessing") -> tuple[float, ...] | None:
    """The training images' mean per pixel, where they are stored at the size that the network sees."""
    from residual.data.statistics import measure_preprocessing

    size = preprocessing.size
    if images.shape[:2] != (size, size) or preprocessing.channels == "BGR":
        return None
    return measure_preprocessing(images, size=size, per_pixel=True, divide=False).mean


def _tell_why(found: dict[str, Any]) -> None:
    """A table, the largest effect first."""
    from residual.evaluate.protocol import Protocol, words

    protocol = Protocol(**found["protocol"])
    split = "" if found["split"] == "all" else f"{found['split']} "
    print(f"as stated: {found['top1_error']:.2f} % error on {found['images']:,} {split}images")
    print(f"  {words(protocol)}")
    print()
    print("   error   effect      95 % interval      p   one change at a time")
    for row in found["changes"]:
        low, high = row["interval"]
        spread = f"{low:+.2f} to {high:+.2f}"
        print(f"  {row['error']:6.2f}   {row['effect']:+6.2f}   {spread:>16}  {row['p']:5.3f}   {row['what']}")
    print("Effects in points of top-1 error; of twenty changes without effect one has p below 0.05.")
    for what, why in found["not_measured"].items():
        print(printable(f"Not measured: {what} ({why})"))
    if found["best_guess"] is not None:
        print(found["best_guess"])


# --- told ------------------------------------------------------------------------------------------------


def _tell(which: str, found: dict[str, Any]) -> None:
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


def _without_mistakes(found: object) -> object:
    """Pictures are for the file."""
    return {name: value for name, value in found.items() if name != "mistakes"} if isinstance(found, dict) else found
