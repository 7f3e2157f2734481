"""residual weights doctor: what shapes cannot tell about a file of weights, found by showing it images."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from residual.cli.terminal import next_step, printable, refuse_new_file, working

if TYPE_CHECKING:
    from torch import Tensor

    from residual.data.decode import Pixels
    from residual.evaluate.doctor import Examination
    from residual.weights.card import Card


def doctor(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file of weights or a run folder.")],
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Images of the kind it was trained on; no labels needed.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(metavar="DIR", help="Labelled images instead: a folder of classes, or cifar10, ...")
    ] = None,
    count: Annotated[int, typer.Option(metavar="N", help="How many of the images to look at.", min=16)] = 64,
    out: Annotated[
        Path | None, typer.Option(metavar="TARGET", help="Write the weights with the faults corrected, .safetensors.")
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option("--layout", help="Whose names these are, where two share them (timm, torchvision)."),
    ] = None,
    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu, cuda, mps.")] = "auto",
    workers: Annotated[int, typer.Option(metavar="N", help="Processes that decode images.", min=0)] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Find out by images what shapes cannot tell.

    Where it strides and pools, RGB or BGR, mean and scale, the filter that resizes; with labelled images also the
    shorter side and the order of the classes.  Each is sound, faulty, or cannot be told from so few images.
    """
    if (images is None) == (data is None):
        raise ValueError("the doctor looks at images: add --images DIR, or --data DIR if they have labels")
    if out is not None:
        refuse_new_file(out)
    import msgspec

    from residual.evaluate.doctor import Claim, examine
    from residual.train.precision import Precision, keep_freed_memory, pick_device, settle
    from residual.weights.sources import read

    keep_freed_memory()
    place = pick_device(device)
    settle(Precision(place, False))
    tensors, card = read(file, layout=layout)
    if images is not None:
        pictures, labels = _unlabelled(images, card, count, workers), None
    else:
        assert data is not None
        pictures, labels = _labelled(data, card, count, workers)
    with working("examining") as progress:
        found = examine(
            tensors,
            Claim(model=card.model, preprocessing=card.preprocessing),
            pictures,
            labels,
            classes=card.classes,
            device=place,
            progress=progress,
        )
    faults = [one.setting for one in found.findings if one.verdict == "faulty"]
    if out is not None and faults:
        from residual.weights.safetensors import save

        save(out, tensors, _corrected(card, found))
    if as_json:
        plain: dict[str, Any] = msgspec.to_builtins(found)
        print(json.dumps({"file": str(file), "labelled": labels is not None} | plain, indent=2))
        return
    _tell(file, card.name, found)
    if out is not None and faults:
        print(printable(f"{out}: the same weights, with {', '.join(faults)} corrected"))
        print(next_step("evaluate", out, "--data", "DIR"))
    elif faults:
        asked = ("--images", images) if images is not None else ("--data", data)
        target = f"{file.stem or 'weights'}-corrected.safetensors"
        print(next_step("weights", "doctor", file, *asked, "--count", count, "--out", target))
    else:
        if out is not None:
            print(printable(f"There is nothing to correct, so {out} was not written."))
        print(next_step("evaluate", file, "--data", "DIR"))


def _unlabelled(folder: Path, card: "Card", count: int, workers: int) -> "list[Pixels]":
    """So many images of a folder, at any depth, whole; those that cannot be read are passed over."""
    from residual.data.decode import BadImage, View
    from residual.data.loader import File, Pool
    from residual.data.transforms import permutation
    from residual.serve.predict import found

    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; --images names a folder of images")
    files = [one for one in found([folder]) if isinstance(one, File)]
    mixed = (files[place] for place in permutation(len(files), 0, 0).tolist())
    pictures: list[Pixels] = []
    with Pool(workers=workers) as pool:
        for decoded in pool.decode(mixed, View(mode="L" if card.preprocessing.channels == "L" else "RGB")):
            if not isinstance(decoded.pixels, BadImage):
                pictures.append(decoded.pixels)
            if len(pictures) == count:
                break
    return pictures


def _labelled(data: str, card: "Card", count: int, workers: int) -> "tuple[list[Pixels], Tensor]":
    """So many labelled images, whole, and their labels in the card's order of classes."""
    from residual.data.images import ImageFiles
    from residual.data.sources import open_dataset
    from residual.data.split import to_evaluate
    from residual.data.transforms import permutation, view
    from residual.evaluate.originals import as_files, stored, whole
    from residual.evaluate.score import align

    preprocessing = card.preprocessing
    with working("reading the images") as progress:
        everything = open_dataset(
            data, size=preprocessing.size, view=view(preprocessing), workers=workers, progress=progress
        )
    _, images = to_evaluate(everything)
    chosen = align(images.select(permutation(len(images), 0, 0)[:count]), card.classes)
    height, width, _ = chosen.shape
    if isinstance(chosen, ImageFiles):
        return list(whole(chosen)), chosen.labels
    if set(everything.sizes) == {f"{width}x{height}"}:  # nothing was resized, so what is stored is all there is
        return list(stored(chosen)), chosen.labels
    return list(whole(as_files(chosen, Path(data), workers=workers))), chosen.labels


def _corrected(card: "Card", found: "Examination") -> "Card":
    """The card with what was found, and a word about it in its history."""
    from residual.weights.architecture import catalog_name

    classes = list(card.classes)
    for name, output in zip(card.classes, found.order or (), strict=False):
        classes[output] = name
    model = found.corrected.model
    changed = {one.setting: f"{one.claimed} -> {one.found}" for one in found.findings if one.verdict == "faulty"}
    return replace(
        card,
        name=card.name if model == card.model else catalog_name(model),
        model=model,
        classes=tuple(classes),
        preprocessing=found.corrected.preprocessing,
        history=card.history | {"corrected": changed},
    )


def _tell(file: Path, name: str, found: "Examination") -> None:
    with_labels = "with" if found.error is not None else "without"
    print(printable(f"{file}: {name}, judged by {found.images} images {with_labels} labels"))
    for one in found.findings:
        value = one.claimed if one.claimed == one.found else f"{one.claimed} -> {one.found}"
        margin = "" if one.margin == 0 else f"  (margin {one.margin:.1f})"
        print(printable(f"  {one.verdict:<11}  {one.setting:<14}  {value}{margin}"))
        more = f"; about {one.needed:,} images would tell" if one.needed is not None else ""
        print(printable(f"{'':31}{one.because}{more}"))
    before, after = found.misfit
    changed = f", {after:.3f} corrected" if found.misfit[0] != found.misfit[1] else ""
    print(f"  norms are {before:.3f} from what they stored{changed}")
    if found.error is not None:
        before, after = found.error
        changed = f", {after:.1f} % corrected" if before != after else ""
        print(f"  top-1 error {before:.1f} % as claimed{changed}")
