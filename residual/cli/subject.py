"""What an evaluation is about: networks from runs, files and checkpoints, and the images they are measured on."""

import shlex
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from residual.cli.terminal import working

if TYPE_CHECKING:
    import torch

    from residual.data.images import Dataset, ImageFiles, Images
    from residual.data.transforms import Augmentation, Preprocessing
    from residual.evaluate.look import Member
    from residual.pipeline import Plan
    from residual.weights.sources import Loaded

# Images that a network was trained on, and how they were varied where that is known.
Training: TypeAlias = "tuple[Images | ImageFiles, Augmentation | None]"


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Labelled images to measure on, and what is known of them."""

    split: str
    images: "Images | ImageFiles"
    where: str  # the data, as it was named
    uncut: bool  # they are stored as they were found: nothing was resized
    seed: int = 0  # that held them out, where the data had no split
    training: "Training | None" = None  # where the same reading gave it


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Networks and the images they are measured on."""

    source: Path
    models: "dict[str, Loaded]"  # by their meaning
    paths: dict[str, Path]
    pictures: Pictures  # labels in the order of the networks' classes
    device: "torch.device"
    workers: int

    @property
    def which(self) -> str:
        """The meaning of the first network."""
        return next(iter(self.models))

    @property
    def model(self) -> "Loaded":
        """The first network."""
        return self.models[self.which]

    @property
    def images(self) -> "Images | ImageFiles":
        """As they are stored."""
        return self.pictures.images


def open_networks(source: Path, *, first: bool) -> "tuple[dict[str, Path], dict[str, Loaded]]":
    """The networks of a run or file, by their meaning.  first: only the first of a run's, which are the last ones."""
    paths = dict(list(_weights_in(source).items())[: 1 if first else None])
    return paths, {which: load_network(path) for which, path in paths.items()}


def open_subject(
    source: Path, paths: dict[str, Path], models: "dict[str, Loaded]", data: str | None, device: str, workers: int
) -> Subject:
    """The networks on their device, with the images that the command names or the run held out."""
    from residual.evaluate.score import align
    from residual.train.precision import Precision, keep_freed_memory, pick_device, settle

    keep_freed_memory()
    place = pick_device(device)
    settle(Precision(place, False))
    card = next(iter(models.values())).card  # the weights of one run see the same images
    pictures = _pictures(source, data, card.preprocessing, workers)
    return Subject(
        source=source,
        models={which: model.to(place) for which, model in models.items()},
        paths=paths,
        pictures=replace(pictures, images=align(pictures.images, card.classes)),
        device=place,
        workers=workers,
    )


# --- weights ---------------------------------------------------------------------------------------------


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


def load_network(source: Path, part: str | None = None) -> "Loaded":
    """A network from a run, a file of weights or a checkpoint of a run.

    part: of a checkpoint, "average" or "model"; None takes the moving average where there is one.
    """
    from residual.weights.sources import load

    run = source.parent.parent
    if not (source.parent.name == "checkpoints" and (run / "run.json").is_file() and source.is_file()):
        return load(source)
    import msgspec

    from residual.data.transforms import Preprocessing
    from residual.evaluate.average import checkpoint_weights
    from residual.models.description import Description
    from residual.records import RunFolder
    from residual.weights.card import Card
    from residual.weights.sources import Loaded

    parts = checkpoint_weights(source)
    if part is not None and part not in parts:
        raise ValueError(f"{source} holds no {part}")
    state = parts[part] if part is not None else next(iter(parts.values()))
    described = RunFolder.open(run).description
    try:
        card = Card(
            name=described["name"],
            model=msgspec.convert(described["model"], Description),
            classes=tuple(described["data"]["classes"]),
            preprocessing=msgspec.convert(described["preprocessing"], Preprocessing),
        )
        model = Loaded(card)
        model.load_state_dict(state)
    except (KeyError, TypeError, ValueError, RuntimeError) as problem:
        raise ValueError(f"{source} does not fit {run / 'run.json'} ({problem}); take another checkpoint") from None
    return model.eval()


def training_of(subject: Subject, train_data: str | None) -> "Training":
    """The images that batch-norm statistics are measured on, and how the network saw them."""
    if train_data is not None:
        from residual.data.sources import open_dataset
        from residual.data.transforms import view

        preprocessing = subject.model.card.preprocessing
        with working("reading the training images") as progress:
            given = open_dataset(
                train_data,
                size=preprocessing.size,
                view=view(preprocessing),
                workers=subject.workers,
                progress=progress,
            )
        return given.train, None
    if subject.pictures.training is not None:
        return subject.pictures.training
    run = _run_of(subject.source)
    if run is None:
        raise ValueError(
            f"batch-norm statistics are measured on training images, and {subject.source} does not say which those "
            "were; add --train-data DIR"
        )
    plan, own = _data_of(run, subject.workers, ("train",))
    return own.train, plan.recipe.augmentation


def refuse_trained_on(subject: Subject, path: Path) -> None:
    """Weights that are combined with the subject's must not have been trained on the images that are measured."""
    from residual.pipeline import planned_classification
    from residual.records import RunFolder

    run = _run_of(path)
    if run is None:
        return
    pictures, trained = subject.pictures, _fingerprints(run)["train"]
    how = RunFolder.open(run).description["data"].get("split")
    made = [how, how.get("held_out")] if isinstance(how, dict) else []
    seeds = [one["seed"] for one in made if isinstance(one, dict) and "seed" in one]
    held_otherwise = pictures.split == "validation" and bool(seeds) and pictures.seed not in seeds
    then = planned_classification(run)
    overlap = same_place(then.data, pictures.where) and (held_otherwise or pictures.split == "all")
    if overlap or trained == pictures.images.fingerprint:
        raise ValueError(
            f"{run} was trained on some of the {pictures.split} images of {pictures.where}, which would "
            "flatter it; combine runs with the same --seed or the same split, or measure on other images"
        )


def _run_of(source: Path) -> Path | None:
    """The run that a folder is, or that weights or checkpoints lie in."""
    folders = [source] if source.is_dir() else [source.parent]
    if not source.is_dir() and source.parent.name == "checkpoints":
        folders.append(source.parent.parent)
    return next((folder for folder in folders if (folder / "run.json").is_file()), None)


# --- images ------------------------------------------------------------------------------------------------


def _pictures(source: Path, data: str | None, preprocessing: "Preprocessing", workers: int) -> Pictures:
    run = _run_of(source)
    if data is not None:
        return _given(data, run, preprocessing, workers)
    if run is None or run != source:
        raise ValueError(f"{source} does not say which images to measure on; add --data DIR")
    plan, own = _data_of(run, workers, ("train", "validation", "test"))
    held = _held_out(own)
    if held is None:
        raise ValueError(f"the data of {run} has neither test nor validation images; give others with --data DIR")
    return Pictures(
        split=held[0],
        images=held[1],
        where=plan.data,
        uncut=_stored_uncut(own),
        seed=plan.seed,
        training=(own.train, plan.recipe.augmentation),
    )


def _data_of(run: Path, workers: int, needed: tuple[str, ...]) -> "tuple[Plan, Dataset]":
    """What a run was told and the images it was given, if the splits that are needed are as they were."""
    from residual.pipeline import planned_classification, read_data

    plan = planned_classification(run)
    with working("reading the images") as progress:
        own = read_data(replace(plan, workers=workers), progress)
    now = {split: images.fingerprint for split, images in own.splits().items()}
    for split, then in _fingerprints(run).items():
        if split in needed and now.get(split) != then:
            raise ValueError(
                f"the {split} images in {plan.data} are not those of {run} (fingerprint {str(now.get(split))[:12]}, "
                f"then {then[:12]}), so its error cannot be measured again; put the data back as it was, or name a "
                "folder of images that it was not trained on with --data"
            )
    return plan, own


def _stored_uncut(data: "Dataset") -> bool:
    """Whether all images were found at the size at which they are kept."""
    height, width, _ = data.train.shape
    return set(data.sizes) == {f"{width}x{height}"}


def _given(data: str, run: Path | None, preprocessing: "Preprocessing", workers: int) -> Pictures:
    """Labelled images as the network wants them.  Never those that the run, where it is known, was trained on."""
    from residual.data.sources import open_dataset
    from residual.data.split import hold_out, to_evaluate
    from residual.data.transforms import view
    from residual.pipeline import planned_classification

    plan = None if run is None else planned_classification(run)
    seed = 0 if plan is None else plan.seed
    with working("reading the images") as progress:
        whole = open_dataset(
            data,
            size=preprocessing.size,
            view=view(preprocessing),
            seed=seed,
            workers=workers,
            progress=progress,
        )
    split, images = to_evaluate(whole)
    found = Pictures(split=split, images=images, where=data, uncut=_stored_uncut(whole), seed=seed)
    if run is None or plan is None:
        return found
    trained_on = _fingerprints(run)["train"]
    as_then = whole
    if whole.validation is None and plan.recipe.validation:
        with suppress(ValueError):  # too few images to be those of the run
            as_then = hold_out(whole, plan.recipe.validation, seed=plan.seed)
    if as_then.train.fingerprint == trained_on and (held := _held_out(as_then)) is not None:
        training = (as_then.train, plan.recipe.augmentation)
        return replace(found, split=held[0], images=held[1], training=training)
    if images.fingerprint == trained_on or (split == "all" and same_place(data, plan.data)):
        raise ValueError(
            f"{data} holds images that {run} was trained on, which would flatter it; measure its held-out images: "
            f"residual evaluate {shlex.quote(str(run))}, or name a folder of other images with --data"
        )
    return found


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


def same_place(one: str, other: str) -> bool:
    """Whether two words name the same data."""
    return one == other or Path(one).expanduser().resolve() == Path(other).expanduser().resolve()


def pictures_for(subject: Subject, members: "list[Member]", *, enlarge: bool = True) -> "Images | ImageFiles":
    """The images as the protocols need them: what is stored, or the files that it was made from.

    enlarge: whether small images may be scaled up for every scale of a protocol.
    """
    from residual.data.images import ImageFiles
    from residual.data.transforms import view
    from residual.evaluate.originals import as_files
    from residual.evaluate.protocol import keeps_square

    images, stored = subject.images, view(subject.model.card.preprocessing)
    if isinstance(images, ImageFiles) or all(keeps_square(one.protocol, stored) for one in members):
        return images
    if not subject.pictures.uncut:
        return as_files(images, Path(subject.pictures.where), workers=subject.workers)
    scales = [scale for one in members for scale in one.protocol.scales]
    side = images.shape[0]
    if scales and side <= min(scales) and not enlarge:
        raise ValueError(
            f"the images are of {side} pixels and multi-scale looks at {min(scales)} and more, which would only blur "
            "them; the paper tests such networks on one view: --protocol one-crop (or ten-crop).  --scales asks for it "
            "all the same"
        )
    return images
