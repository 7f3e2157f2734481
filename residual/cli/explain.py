"""Why does my number differ?  One change after the other, on the same images."""

import copy
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from residual.cli.asked import Asked
from residual.cli.lineup import mean_of, with_statistics
from residual.cli.subject import Subject, load_network, pictures_for, training_of
from residual.cli.terminal import printable, working

if TYPE_CHECKING:
    from residual.cli.subject import Training
    from residual.data.images import ImageFiles, Images
    from residual.data.transforms import Preprocessing
    from residual.evaluate.score import Scores
    from residual.weights.sources import Loaded


def explained(subject: Subject, asked: Asked, train_data: str | None, claimed: float | None) -> dict[str, Any]:
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


def tell_why(found: dict[str, Any]) -> None:
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
