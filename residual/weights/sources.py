"""Whose file is this?  One door to every layout we read: a network that is ready to use, with its card.

A container (how bytes become named tensors) is known by its content, a layout (what the names mean) by the names.
"""

import io
import os
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import msgspec
import torch
from torch import Tensor

from residual.data.kept import cache_folder
from residual.models.catalog import catalog
from residual.models.resnet import ResNet
from residual.records import write_durably
from residual.weights import (
    akamaster,
    caffe,
    detectron,
    facebook,
    huggingface,
    keras,
    published,
    safetensors,
    timm,
    torchvision,
    trained,
)
from residual.weights.architecture import as_float32, check_shapes, check_values, shapes_of
from residual.weights.card import Card
from residual.weights.child import read_apart
from residual.weights.containers import recognise
from residual.weights.download import Tell, hashed
from residual.weights.download import download as fetch
from residual.weights.files import BadWeights, naming, open_file
from residual.weights.protobuf import MEAN_FILE

WEIGHTS = "model.safetensors"  # in a run folder
OURS = "residual"
DETECTOR = "residual_detector"  # the key of a detector's card (residual/detect/weights.py)


class Layout(Protocol):
    """What a module in LAYOUTS offers."""

    NAME: str

    def recognises(self, tensors: Mapping[str, object]) -> bool:
        """Whether these are its names."""

    def convert(self, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Card]:
        """The tensors by our names, and their card."""


LAYOUTS: tuple[Layout, ...] = (akamaster, torchvision, timm, huggingface, caffe, keras, facebook, detectron)
EXPORTS: dict[str, Callable[[Mapping[str, Tensor], Card], dict[str, Tensor]]] = {
    torchvision.NAME: torchvision.export,
    timm.NAME: timm.export,
}


class Loaded(ResNet):
    """A network with the card it came with."""

    card: Card

    def __init__(self, card: Card) -> None:
        super().__init__(card.model)
        self.card = card


def load(
    source: str | os.PathLike[str],
    *,
    weights: str | None = None,
    download: bool = False,
    sha256: str | None = None,
) -> Loaded:
    """The network of a weights file or a run folder, in eval mode on the CPU, with its `.card`.

    source: a run folder or a file of weights, of ours or of anybody whose layout we know (LAYOUTS); the name of
        weights that come with residual (residual/weights/trained); with `weights`, the name of a network that
        somebody has published.
    weights: whose, and which if there are several: "torchvision", "timm/a1_in1k".
    download: whether a published file that is not here yet may be fetched.
    sha256: refuse the file unless this is its hash, or begins it: eight digits at least.
    Draws no random numbers.  Refuses, as `BadWeights`, whatever is not exactly a network we know.
    """
    if sha256 is not None and not re.fullmatch("[0-9a-fA-F]{8,64}", sha256):
        raise BadWeights(f"sha256 {sha256!r} pins no file: it has eight to 64 digits, 0 to 9 and a to f")
    if weights is not None:
        source = obtain(os.fspath(source), weights, download=download)
    path = locate(source)
    if sha256 is not None and not (found := _hash(path, "sha256")).startswith(sha256.lower()):
        raise BadWeights(f"{str(path)!r} has sha256 {found}, expected {sha256}: another file, or damaged")
    tensors, card = read(path)
    return assembled(tensors, card)


def assembled(tensors: Mapping[str, Tensor], card: Card) -> Loaded:
    """The network of what `read` returns, or of the same tensors with another card: `replace(card, model=...)`.

    It holds these very tensors, not copies of them.
    """
    with torch.device("meta"):  # shapes only: no memory, no random numbers
        model = Loaded(card)
    model.load_state_dict(tensors, assign=True)
    return model.eval()


def read(source: str | os.PathLike[str], *, layout: str | None = None) -> tuple[dict[str, Tensor], Card]:
    """Tensors under our names, and their card, of any layout we know.

    layout: the NAME of one, where the names leave it open (timm's are torchvision's); None decides by names.
    A published file's card has the images that it was published for, and its claim.
    """
    path = locate(source)
    with naming(path):
        opened = _open(path)
        return _converted(path, opened, layout, {} if opened.is_ours else _hashes(path))


def convert(
    source: str | os.PathLike[str], target: str | os.PathLike[str], *, layout: str | None = None, half: bool = False
) -> Card:
    """Write somebody's weights as a file of ours, and return its card.  half: in float16."""
    tensors, card = read(source, layout=layout)
    write = safetensors.save_half if half else safetensors.save
    write(target, tensors, card)
    return card


def export(source: str | os.PathLike[str], target: str | os.PathLike[str], *, layout: str) -> Card:
    """Write weights under the names of torchvision or timm (EXPORTS), and return the card of what was read.

    A target whose name ends in .pth or .pt is written by torch.save, any other as safetensors; both hold the bare
    state dict.  What was converted from there comes back bit for bit, and with the numbers of batches, 0, where a
    file from before PyTorch 0.4.1 had none.  Refuses a network that the other side does not have.
    """
    if layout not in EXPORTS:
        raise BadWeights(f"nothing is written in the layout {layout!r}; there are: {', '.join(EXPORTS)}")
    tensors, card = read(source)
    with naming(source):
        theirs = EXPORTS[layout](tensors, card)
    path = Path(target)
    if path.suffix in (".pth", ".pt"):
        content = io.BytesIO()
        torch.save({name: tensor.clone() for name, tensor in theirs.items()}, content)  # each with its own storage
        write_durably(path, content.getbuffer())
    else:
        safetensors.save_bare(path, theirs)
    return card


def inspect(source: str | os.PathLike[str], *, layout: str | None = None) -> dict[str, Any]:
    """Whose file this is and what it expects, as plain JSON values.

    `layout` is "residual", the NAME of one in LAYOUTS, or "unknown"; where there is a `problem` there is no card.
    `published` is what the publisher says of a file that is known by its hash.
    """
    path = locate(source)
    hashes = _hashes(path)
    found: dict[str, Any] = {
        "file": str(path),
        "bytes": path.stat().st_size,
        "sha256": hashes["sha256"],
        "layout": "unknown",
        "container": None,
        "tensors": [],
    }
    if known := published.by_hash(hashes):
        found["published"] = published.claim(known)
    try:
        with naming(path):
            opened = _open(path)
            found["container"] = opened.container
            found["tensors"] = [{"name": name, "shape": list(shape)} for name, shape in opened.shapes.items()]
            found["layout"] = OURS if opened.is_ours else _layout(opened, layout).NAME
            found["card"] = msgspec.to_builtins(_converted(path, opened, layout, hashes)[1])
    except BadWeights as problem:
        found["problem"] = str(problem)
    return found


def obtain(network: str, weights: str, *, download: bool = False, tell: Tell | None = None) -> Path:
    """Where a published file lies on this machine; fetched first if it is not there and `download` says so.

    Refuses a file there whose hash is no longer its publisher's.
    """
    known = published.find(network, weights)
    path = cache_folder() / "weights" / known.family / known.file
    command = shlex.join(["residual", "weights", "download", known.network, known.weights])
    if path.is_file():
        if not (found := _hash(path, known.algorithm)).startswith(known.hashes[0]):
            raise BadWeights(
                f"{str(path)!r} has {known.algorithm} {found}, its publisher's begins with {known.hashes[0]}: it was "
                f"damaged or changed since it was fetched; delete it and fetch it again: {command}"
            )
        return path
    if not download:
        raise BadWeights(
            f"the weights {known.weights} of {known.network} are not on this machine, and nothing is fetched unasked; "
            f"fetch them: {command}, or load(..., download=True) ({known.url})"
        )
    fetch(known.url, path, digest=known.hashes[0], algorithm=known.algorithm, tell=tell)
    return path


def locate(source: str | os.PathLike[str]) -> Path:
    """The file of weights itself: in a run folder, its model.safetensors; of a name, the file that we ship."""
    path = Path(source)
    with naming(source):
        if not path.exists() and (ours := trained.find(os.fspath(source))):
            return ours
        if path.is_dir():
            weights = path / WEIGHTS
            if weights.is_file():
                return weights
            if (path / "run.json").is_file():
                raise BadWeights(
                    f"this run has no {WEIGHTS} yet, its training has not finished; go on with it: "
                    f"residual train --resume --out {shlex.quote(os.fspath(source))}"
                )
            raise BadWeights("it is neither a file of weights nor a run folder: it has no run.json")
        if not path.exists() and os.fspath(source) in catalog:
            raise BadWeights(
                "this is the name of a network, not a file: load(NAME, weights=...) takes weights that somebody has "
                "published (residual weights list), residual.create_model makes the network untrained, residual train "
                "trains it"
            )
        if not path.exists():
            raise BadWeights(
                "there is no such file; a run folder or a file of weights is loaded by its path, and by name what "
                f"residual has trained: {', '.join(trained.names())}"
            )
    return path


@dataclass(frozen=True, kw_only=True)
class _Opened:
    """A file out of its container: ours with its card, or somebody's tensors by their names."""

    container: str
    shapes: Mapping[str, tuple[int, ...]]
    tensors: Mapping[str, Tensor]
    is_ours: bool = False


def _open(path: Path) -> _Opened:
    if _is_safetensors(path):
        shapes, metadata = safetensors.header(path)
        if safetensors.KEY in metadata:
            return _Opened(container=safetensors.NAME, shapes=shapes, tensors={}, is_ours=True)
        if DETECTOR in metadata:
            raise BadWeights(
                "it holds a detector, not a classifier; residual detect and residual evaluate use it, and in Python "
                "residual.load_detector"
            )
        tensors = safetensors.read_bare(path)
        return _Opened(container=safetensors.NAME, shapes=shapes, tensors=tensors)
    container = recognise(path)
    tensors = read_apart(path, container)
    return _Opened(container=container.NAME, shapes=shapes_of(tensors), tensors=tensors)


def _converted(
    path: Path, opened: _Opened, name: str | None, hashes: Mapping[str, str]
) -> tuple[dict[str, Tensor], Card]:
    if opened.is_ours:
        return safetensors.read(path)
    chosen = _layout(opened, name)
    theirs, others = as_float32(opened.tensors)
    tensors, card = chosen.convert(theirs)
    check_shapes(shapes_of(tensors), card.model)
    check_values(tensors, card.model)
    history = {**card.history, "file": path.name, "sha256": hashes["sha256"]}
    if others:
        history["stored_as"] = ", ".join(others)
    if MEAN_FILE in opened.tensors:
        history["mean_file_sha256"] = _hash(path.with_name(MEAN_FILE), "sha256")
    if known := published.by_hash(hashes):
        history.pop("assumed", None)
        history["published"] = published.claim(known)
        card = replace(card, preprocessing=known.preprocessing)
    return tensors, replace(card, history=history)


def _layout(opened: _Opened, name: str | None) -> Layout:
    """The layout called `name`, or the one that has these names."""
    if name is not None:
        for layout in LAYOUTS:
            if name == layout.NAME:
                names = torchvision if layout is timm else layout  # theirs are the same
                if not names.recognises(opened.tensors):
                    raise BadWeights(
                        f"its names are not those of {name}'s networks ({_few(opened)}); leave the layout out and the "
                        "names decide, or see residual weights inspect FILE"
                    )
                return layout
        raise BadWeights(f"no layout is called {name!r}; there are: {', '.join(layout.NAME for layout in LAYOUTS)}")
    for layout in LAYOUTS:
        if layout.recognises(opened.tensors):
            # the names are the same: torchvision has always published torch.save's files, timm safetensors
            return timm if layout is torchvision and opened.container == safetensors.NAME else layout
    if {"stem.conv.weight", "classifier.weight"} <= opened.tensors.keys():
        raise BadWeights("it has our names but no card; save it with residual.weights.safetensors.save")
    raise BadWeights(
        f"its names ({_few(opened)}) are of no layout we convert; there are: "
        f"{', '.join(layout.NAME for layout in LAYOUTS)}"
    )


def _few(opened: _Opened) -> str:
    return f"{', '.join(sorted(opened.tensors)[:3])[:200]}, ..."


def _is_safetensors(path: Path) -> bool:
    """By content, not by name: eight bytes of length, then a JSON object."""
    with open_file(path) as file:
        return file.read(9)[8:] == b"{"


def _hashes(path: Path) -> dict[str, str]:
    """By algorithm, what publishers know a file by: MD5 none that are safetensors, as ours are."""
    with naming(path):
        algorithms = ("sha256",) if _is_safetensors(path) else ("sha256", "md5")
    return {algorithm: _hash(path, algorithm) for algorithm in algorithms}


def _hash(path: Path, algorithm: str) -> str:
    with naming(path), open_file(path) as file:
        return hashed(file, algorithm)
