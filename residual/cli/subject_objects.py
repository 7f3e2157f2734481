"""What the test of a detector is about: detectors from runs and files, and the images they are measured on.

A run is never measured on images that it was trained on, under whatever name they come.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from residual.cli.subject import same_place
from residual.cli.terminal import working

if TYPE_CHECKING:
    from residual.data.objects import ObjectImages
    from residual.data.open_objects import ObjectDataset
    from residual.detect.card import DetectorCard
    from residual.detect.detector import Detector
    from residual.recipes.detection_plan import DetectionPlan


@dataclass(frozen=True, kw_only=True)
class Ground:
    """Images to measure on.  own: with the labels of the detector's classes; given: as they were read."""

    split: str
    own: "ObjectImages"
    given: "ObjectImages"
    where: str


def open_detectors(source: Path, *, first: bool) -> "dict[str, Detector]":
    """Those of a run by their meaning, of a file its one.  first: only the first of a run's."""
    from residual.detect.weights import load

    if not source.is_dir():
        return {"file": load(source)}
    named = {"last": source / "model.safetensors", "best": source / "best.safetensors"}
    return {which: load(path) for which, path in list(named.items())[: 1 if first else None] if path.is_file()}


def open_ground(source: Path, card: "DetectorCard", data: str | None, lists: str | None, workers: int) -> Ground:
    """The images that the command names, or that the run held out.

    lists: as in training, which would hold out those that are measured on; of the run's own data, if no other is named.
    """
    run = _run_of(source)
    if data is None and lists is not None and run is not None:
        data = _plan(run).data
    if data is not None:
        return _given(data, lists, run, card, workers)
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
    return Ground(split=held, own=aligned(images, card.classes), given=images, where=plan.data)


def _given(data: str, lists: str | None, run: Path | None, card: "DetectorCard", workers: int) -> Ground:
    """Named images; never those that the run, where it is known, was trained on."""
    from residual.data.open_objects import open_objects, to_evaluate

    plan = None if run is None else _plan(run)
    own_lists = plan.lists if plan is not None and same_place(data, plan.data) else None
    with working("reading the images") as progress:
        whole = open_objects(
            data,
            lists=own_lists if lists is None else lists,
            seed=0 if plan is None else plan.seed,
            size=card.procedure.side,
            workers=workers,
            progress=progress,
        )
    split, images = to_evaluate(whole) if lists is None else _listed(whole, lists)
    if run is not None and whole.made_here and whole.train.fingerprint == _fingerprints(run).get("train"):
        assert whole.validation is not None
        split, images = "validation", whole.validation
    ground = Ground(split=split, own=aligned(images, card.classes), given=images, where=data)
    if run is not None:
        own = f"residual evaluate {shlex.quote(str(run))}"
        refuse_seen(run, ground, workers, f"measure its held-out images: {own}, or name other images with --data")
    return ground


def _listed(whole: "ObjectDataset", lists: str) -> "tuple[str, ObjectImages]":
    """What lists hold out: behind the slash, or else as the data has it, such as VOC 2007's test images."""
    from residual.reproduce.data import held_out

    images = held_out(whole, lists)
    if images is None or whole.made_here:
        way_out = "of a VOCdevkit name those to measure on behind a slash, such as 2012:train/2012:val"
        if not whole.origin.startswith("PASCAL VOC"):
            way_out = f"of ImageNet they are those of ImageSets/{lists}/val.txt, which is not there: add it"
        raise ValueError(f"--lists {lists} holds no images out; {way_out}")
    return next(split for split, each in whole.splits().items() if each is images), images


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


def open_member(path: Path, card: "DetectorCard") -> "Detector":
    """A detector of an ensemble, of the classes of the first."""
    from residual.detect.detector import alike
    from residual.detect.weights import load

    one = load(path)
    if one.card.classes != card.classes:
        odd = sorted(set(one.card.classes) ^ set(card.classes)) or ["their order"]
        raise ValueError(f"the classes of {path} are not those of {card.name}: {_some(odd)}; combine runs of one data")
    alike([one])
    return one


def refuse_seen(source: Path, ground: Ground, workers: int, way_out: str) -> None:
    """Images that a run was trained on, under whatever name, do not measure it.  source: the run, or weights in it."""
    run = _run_of(source)
    if run is None or _fingerprints(run).get(ground.split) == ground.given.fingerprint:
        return  # nothing is known of it, or these very images it held out
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


def _some(names: Sequence[str]) -> str:
    """Names, of many the first five."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
