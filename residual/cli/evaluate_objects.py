"""residual evaluate of a detector: how precisely it finds, how a localizer places, and what each improvement brings."""

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from residual.cli.terminal import next_step, printable, refuse_new_file, working

if TYPE_CHECKING:
    from rich.table import Table

    from residual.data.objects import ObjectImages
    from residual.detect.card import DetectorCard
    from residual.detect.detector import Detector
    from residual.detect.procedure import Procedure
    from residual.recipes.detection_plan import DetectionPlan

PROTOCOLS = ("plain", "box-refinement", "multi-scale", "improved", "each")
NAMES = {"last": "last iteration", "best": "best by validation", "file": "weights", "ensemble": "ensemble"}
ROWS = 40  # classes in a table
MISTAKES = 24  # with their pictures
WIDEST = 160  # letters of a table; it takes no more than it needs


def evaluate_objects(
    weights: Path,
    *,
    data: str | None,
    protocol: str | None,
    scales: str | None,
    ensemble: Sequence[Path],
    classes: Path | None,
    one_step: bool,
    device: str,
    workers: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Measure a detector on images with objects, and say or write what was found.

    protocol: of `PROTOCOLS`; None is plain.  ensemble: detectors that judge together with this one.
    classes, one_step: of a localizer: a classification run that tells the classes; its first step alone.
    """
    from residual.records import write_json
    from residual.train.precision import Precision, keep_freed_memory, pick_device, settle

    if out is not None:
        refuse_new_file(out)
    alone = bool(ensemble) or protocol == "each"
    detectors = _detectors(weights, first=alone)
    card = next(iter(detectors.values())).card
    asked = _asked(card, protocol, scales, several=bool(ensemble), localizes=(classes is not None, one_step))
    keep_freed_memory()
    place = pick_device(device)
    settle(Precision(place, False))
    ground = _ground(weights, card, data, workers)
    others = [_member(path, card, ground, workers).to(place) for path in ensemble]
    for each in detectors.values():
        each.to(place)
    found: dict[str, Any]
    rows: list[dict[str, Any]] = []
    if card.localizer is not None:
        found = _localized(detectors, ground, asked, classes, second=not one_step, workers=workers)
    elif protocol == "each":
        rows = _one_after_the_other(detectors, others, ground, asked, workers)
        found = {"rows": rows}
    else:
        found = _measured(detectors, others, ground, next(iter(asked.values())), workers)
    if out is not None:
        write_json(out, found)
    if as_json:
        slim = found if rows else {name: _without_pictures(each) for name, each in found.items()}
        print(json.dumps(slim, indent=2))
        return
    if rows:
        _tell_rows(rows)
    else:
        for which, told in found.items():
            if card.localizer is not None:
                _tell_localizer(which, told)
            else:
                _tell(which, told, masks=card.masks)
    print(next_step("detect", weights, "IMAGE"))


def refuse_others(given: Mapping[str, Any]) -> None:
    """Refuse, by name, the options of classifiers that a detector has no use for.  given: by name, None if not."""
    if wrong := [name for name, value in given.items() if value not in (None, False, [])]:
        raise ValueError(
            f"{wrong[0]} is for networks that classify, and this is a detector; leave it out.  A detector's test is "
            f"chosen with --protocol {'|'.join(PROTOCOLS)}, --scales and --ensemble"
        )


# --- how it is tested ------------------------------------------------------------------------------------------------


def _asked(
    card: "DetectorCard",
    protocol: str | None,
    scales: str | None,
    *,
    several: bool,
    localizes: tuple[bool, bool],
) -> "dict[str, Procedure]":
    """The procedures to measure, by what they are called in a table; a localizer's one."""
    sides = None if scales is None else _sides(scales)
    if card.localizer is not None:
        if protocol is not None or several:
            wrong = "--ensemble" if several else f"--protocol {protocol}"
            raise ValueError(
                f"{card.name} is a localizer, so {wrong} is not of its test; it is chosen with --classes RUN, "
                "--scales N,N,... and --one-step"
            )
        return {"": replace(card.procedure, sides=sides or ())}
    if any(localizes):
        wrong = "--classes" if localizes[0] else "--one-step"
        raise ValueError(f"{wrong} is of a localizer's test, and {card.name} finds classes itself; leave it out")
    name = protocol or PROTOCOLS[0]
    if name not in PROTOCOLS:
        raise ValueError(f"there is no protocol {name!r} for a detector; choose one of: {', '.join(PROTOCOLS)}")
    if card.cascade is not None and name != "plain":
        raise ValueError(
            f"{card.name} is a cascade, which looks at its boxes again and lets masks vote as it is; --protocol {name} "
            "is for Faster R-CNN and Mask R-CNN, so leave it out"
        )
    if sides is not None and name not in ("multi-scale", "improved", "each"):
        raise ValueError(f"--scales is not of protocol {name}; leave it out, or choose --protocol multi-scale")
    return procedures(card.procedure, name, sides)


def procedures(own: "Procedure", protocol: str, sides: tuple[int, ...] | None = None) -> "dict[str, Procedure]":
    """Of a detector that is tested as `own` says.  sides: of multi-scale testing; None: the paper's, in proportion."""
    from residual.serve.detect import improved

    best = improved(own) if sides is None else replace(improved(own), sides=sides)
    plain = replace(own, sides=(), refined=False, voters=None)
    refined = replace(plain, refined=True)
    voted = replace(refined, voters=best.voters)
    return {
        "plain": {"plain": plain},
        "box-refinement": {"box refinement": voted},
        "multi-scale": {"multi-scale": replace(plain, sides=best.sides, widest=best.widest)},
        "improved": {"improved": best},
        "each": {"plain": plain, "+ box refinement": refined, "+ box voting": voted, "+ multi-scale testing": best},
    }[protocol]


def _sides(text: str) -> tuple[int, ...]:
    words = text.split(",")
    if not all(word.strip().isdecimal() for word in words):
        raise ValueError(f"--scales {text} is not a list of shorter sides in pixels, such as 200,400,600")
    return tuple(int(word) for word in words)


# --- detectors and images --------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Ground:
    """Images to measure on.  own: with the labels of the detector's classes; given: as they were read."""

    split: str
    own: "ObjectImages"
    given: "ObjectImages"
    where: str


def _detectors(source: Path, *, first: bool) -> "dict[str, Detector]":
    """Those of a run by their meaning, of a file its one.  first: only the first of a run's."""
    from residual.detect.weights import load

    if not source.is_dir():
        return {"file": load(source)}
    named = {"last": source / "model.safetensors", "best": source / "best.safetensors"}
    return {which: load(path) for which, path in list(named.items())[: 1 if first else None] if path.is_file()}


def _ground(source: Path, card: "DetectorCard", data: str | None, workers: int) -> _Ground:
    """The images that the command names, or that the run held out."""
    run = _run_of(source)
    if data is not None:
        return _given(data, run, card, workers)
    if run is None or run != source:
        raise ValueError(f"{source} does not say which images to measure on; add --data DIR")
    from residual.pipeline import read_objects

    plan = _plan(run)
    with working("reading the images") as progress:
        whole = read_objects(replace(plan, workers=workers), progress)
    held = "test" if whole.test is not None else "validation"
    images = whole.splits().get(held)
    if images is None:
        raise ValueError(f"the data of {run} has neither test nor validation images; give others with --data DIR")
    then = _fingerprints(run)
    for split in ("train", held):
        now = whole.splits()[split].fingerprint
        if then.get(split) != now:
            raise ValueError(
                f"the {split} images in {plan.data} are not those of {run} (fingerprint {now[:12]}, then "
                f"{str(then.get(split))[:12]}), so it cannot be measured again; put the data back as it was, or name "
                "images that it was not trained on with --data"
            )
    return _Ground(split=held, own=aligned(images, card.classes), given=images, where=plan.data)


def _given(data: str, run: Path | None, card: "DetectorCard", workers: int) -> _Ground:
    """Named images; never those that the run, where it is known, was trained on."""
    from residual.data.open_objects import open_objects, to_evaluate

    plan = None if run is None else _plan(run)
    with working("reading the images") as progress:
        whole = open_objects(
            data,
            lists=plan.lists if plan is not None and _same_place(data, plan.data) else None,
            seed=0 if plan is None else plan.seed,
            size=card.procedure.side,
            workers=workers,
            progress=progress,
        )
    split, images = to_evaluate(whole)
    if run is not None and whole.made_here and whole.train.fingerprint == _fingerprints(run).get("train"):
        assert whole.validation is not None
        split, images = "validation", whole.validation
    ground = _Ground(split=split, own=aligned(images, card.classes), given=images, where=data)
    if run is not None:
        own = f"residual evaluate {shlex.quote(str(run))}"
        _refuse_seen(run, ground, workers, f"measure its held-out images: {own}, or name other images with --data")
    return ground


def aligned(images: "ObjectImages", classes: tuple[str, ...]) -> "ObjectImages":
    """The same images with labels in the order of a detector's classes, of which they may have some.

    Refuses data with a class that the detector does not know, and data without an object.
    """
    import numpy as np

    if strangers := [name for name in images.classes if name not in classes]:
        raise ValueError(
            f"the data has {_some(strangers)}, and the detector knows {_some(classes)}: such objects it cannot find; "
            "measure it on data of its own classes"
        )
    if not any((~here.aside).any() for here in images.objects):
        raise ValueError(
            f"none of the {len(images):,} images of {images.origin} has an object that counts, so there is nothing to "
            "measure; name data whose objects are annotated with --data"
        )
    order = np.array([classes.index(name) for name in images.classes])
    objects = tuple(replace(here, labels=order[here.labels]) for here in images.objects)
    return replace(images, classes=classes, objects=objects)


def _member(path: Path, card: "DetectorCard", ground: _Ground, workers: int) -> "Detector":
    """A detector of an ensemble, which was not trained on the images that are measured."""
    from residual.detect.detector import alike
    from residual.detect.weights import load

    one = load(path)
    if one.card.classes != card.classes:
        odd = sorted(set(one.card.classes) ^ set(card.classes)) or ["their order"]
        raise ValueError(f"the classes of {path} are not those of {card.name}: {_some(odd)}; combine runs of one data")
    alike([one])
    run = _run_of(path)
    if run is not None:
        _refuse_seen(run, ground, workers, "combine runs with the same --seed, or measure on other images")
    return one


def _refuse_seen(run: Path, ground: _Ground, workers: int, way_out: str) -> None:
    """Images that a run was trained on, under whatever name, do not measure it."""
    if _fingerprints(run).get(ground.split) == ground.given.fingerprint:
        return  # these very images it held out
    trained = _trained_on(run, ground.where, workers)
    seen = [name for name, mark in zip(ground.given.names, ground.given.marks, strict=True) if mark in trained]
    if seen:
        raise ValueError(
            f"{len(seen):,} of the {len(ground.given):,} images to measure on in {ground.where} are images that {run} "
            f"was trained on, which would flatter it, such as {seen[0]}; {way_out}"
        )


def _trained_on(run: Path, where: str, workers: int) -> frozenset[str]:
    """The marks of a run's training images: as it kept them, else of its data, if that is as it was."""
    from residual.data.objects import MARK
    from residual.pipeline import read_objects
    from residual.records import RunFolder

    kept = RunFolder.open(run).description["data"].get("train_images")
    if isinstance(kept, str):
        return frozenset(kept[start : start + MARK] for start in range(0, len(kept), MARK))
    plan = _plan(run)
    trouble = "they have changed"
    try:
        with working("reading the images of training") as progress:
            images = read_objects(replace(plan, workers=workers), progress).train
        if images.fingerprint == _fingerprints(run).get("train"):
            return frozenset(images.marks)
    except ValueError as error:
        trouble = str(error)
    raise ValueError(
        f"whether {run} was trained on images of {where} cannot be told, because those in {plan.data} are no longer "
        f"as they were ({trouble}); put them back, or measure a copy of its weights in another folder, if you know"
    )


def _run_of(source: Path) -> Path | None:
    folder = source if source.is_dir() else source.parent
    return folder if (folder / "run.json").is_file() else None


def _plan(run: Path) -> "DetectionPlan":
    from residual.pipeline import DetectionPlan, planned

    plan = planned(run)
    if not isinstance(plan, DetectionPlan):
        raise ValueError(f"{run / 'run.json'} is of a training of another kind than the weights beside it")
    return plan


def _fingerprints(run: Path) -> dict[str, str]:
    from residual.records import RunFolder

    try:
        return dict(RunFolder.open(run).description["data"]["fingerprints"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{run / 'run.json'} does not say which images it was trained on") from error


def _same_place(one: str, other: str) -> bool:
    return one == other or Path(one).expanduser().resolve() == Path(other).expanduser().resolve()


def _some(names: Sequence[str]) -> str:
    """Names, of many the first five."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


# --- what is measured ------------------------------------------------------------------------------------------------


def _measured(
    detectors: "dict[str, Detector]",
    others: "Sequence[Detector]",
    ground: _Ground,
    procedure: "Procedure",
    workers: int,
    mistakes: int = MISTAKES,
) -> dict[str, dict[str, Any]]:
    from residual.detect.evaluation import evaluate_detector

    found = {}
    for name, detector in detectors.items():
        which = "ensemble" if others else name
        with working(_measuring(ground)) as progress:
            found[which] = evaluate_detector(
                [detector, *others],
                ground.own,
                split=ground.split,
                weights=which,
                procedure=procedure,
                workers=workers,
                progress=progress,
                mistakes=mistakes,
            )
    return found


def _one_after_the_other(
    detectors: "dict[str, Detector]",
    others: "Sequence[Detector]",
    ground: _Ground,
    asked: "dict[str, Procedure]",
    workers: int,
) -> list[dict[str, Any]]:
    """Every row one improvement more than the row before it; with others, their ensemble last.  Without pictures."""
    tests: list[tuple[str, Sequence[Detector], Procedure]] = [(name, (), how) for name, how in asked.items()]
    if others:
        tests.append((f"+ ensemble of {1 + len(others)}", others, tests[-1][2]))
    rows = []
    for name, together, how in tests:
        (found,) = _measured(detectors, together, ground, how, workers, mistakes=0).values()
        rows.append({"what": name} | _without_pictures(found))
    return rows


def _localized(
    detectors: "dict[str, Detector]",
    ground: _Ground,
    asked: "dict[str, Procedure]",
    classes: Path | None,
    *,
    second: bool,
    workers: int,
) -> dict[str, dict[str, Any]]:
    from residual.detect.evaluation import evaluate_localizer, localizing
    from residual.serve.classes import surest_classes

    (procedure,) = asked.values()
    found = {}
    for which, detector in detectors.items():
        place = next(detector.parameters()).device
        classify = None if classes is None else surest_classes(classes, detector.card.classes, place)
        find, placed = localizing(detector, procedure.sides, second=second, classify=classify)
        with working(_measuring(ground)) as progress:
            found[which] = evaluate_localizer(
                find,
                placed,
                ground.own,
                split=ground.split,
                weights=which,
                classes_from="itself" if classes is None else str(classes),
                sides=procedure.sides,
                second=second,
                workers=workers,
                progress=progress,
            )
    return found


def _measuring(ground: _Ground) -> str:
    split = "" if ground.split == "all" else f"{ground.split} "
    return f"measuring {len(ground.own):,} {split}images"


# --- told ------------------------------------------------------------------------------------------------------------


def _tell(which: str, found: dict[str, Any], *, masks: bool) -> None:
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


def _tell_localizer(which: str, found: dict[str, Any]) -> None:
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


def _tell_rows(rows: list[dict[str, Any]]) -> None:
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


def _without_pictures(found: dict[str, Any]) -> dict[str, Any]:
    """Pictures are for the file."""
    return {name: value for name, value in found.items() if name != "mistakes"}
