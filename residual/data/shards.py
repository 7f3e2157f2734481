"""Images in tar files, `train-00000.tar`, as WebDataset writes them; nothing is unpacked.

An image is a member such as `n01440764/10026.jpg`.  Its class is the number in the member of the same key that ends
in .cls, or without one the folder it stands in.  The members are listed once, and each image is then read from where
it lies: any order, exactly, at any number of workers, which a stream of tar files cannot give.
"""

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from residual.data.assemble import Entry, Listing
from residual.data.folder import IMAGES, as_text
from residual.data.images import Problem
from residual.data.loader import File
from residual.data.split import SPELLINGS

LABEL_BYTES = 20  # a class number has fewer
MOST = 10_000_000  # members of a tar file; all of ImageNet's images with their classes are 2.6 million
SUFFIXES = tuple(suffix.decode() for suffix in IMAGES)


def find_shards(path: Path) -> dict[str | None, list[Path]]:
    """The tar files in a folder by split; under None those whose names do not say."""
    shards: dict[str | None, list[Path]] = {}
    for file in sorted(path.glob("*.tar")):
        if file.is_file():
            words = file.stem.lower().replace("_", "-").replace(".", "-").split("-")
            split = next((split for split, spellings in SPELLINGS.items() if set(words) & set(spellings)), None)
            shards.setdefault(split, []).append(file)
    return shards


def list_shards(path: Path, shards: dict[str | None, list[Path]]) -> Listing:
    """The images of the tar files that `find_shards` found."""
    if None in shards and len(shards) > 1:
        raise ValueError(
            f"{path}: {shards[None][0].name} does not say which split it is, and other tar files do; rename it to "
            "train-..., val-... or test-..."
        )
    if not set(shards) & {None, "train"}:
        raise ValueError(f"{path}: there are tar files for {', '.join(map(str, shards))} but none for train")
    found: list[tuple[str | None, Member, File]] = []
    problems: list[Problem] = []
    for split, files in shards.items():
        for file in files:
            status = file.stat()
            stamp = (status.st_size, status.st_mtime_ns)
            for member in members(file):
                name = f"{as_text(os.fsencode(file.name))}:{member.name}"
                if member.label is None:
                    problems.append(Problem(path=name, reason="no .cls member and no folder says its class"))
                    continue
                span = (member.offset, member.size)
                found.append((split, member, File(name=name, path=os.fsencode(file), stamp=stamp, span=span)))
    labels = {member.label for _, member, _ in found if member.label is not None}
    numbers = all(isinstance(label, int) for label in labels)
    if not numbers and any(isinstance(label, int) for label in labels):
        raise ValueError(f"{path}: some images have a .cls member and others a folder for a class; give all the same")
    if not labels:
        raise ValueError(f"{path}: there are no images with a class in its tar files")
    classes: list[str] = []
    place: dict[str | int | None, int] = {}
    if numbers:
        highest = max(label for label in labels if isinstance(label, int))
        classes = [str(number) for number in range(highest + 1)]
        place = {number: number for number in range(highest + 1)}
    else:
        classes = sorted(str(label) for label in labels)
        place = {name: number for number, name in enumerate(classes)}
    alone = not set(shards) & {"validation", "test"}
    return Listing(
        entries=[
            Entry(file=file, label=place[member.label], split=None if alone else split) for split, member, file in found
        ],
        classes=tuple(classes),
        origin=f"tar files in {path.name}",
        problems=tuple(problems),
        split={"made": "by the tar files"},
    )


@dataclass(frozen=True)
class Member:
    """An image in a tar file."""

    name: str
    offset: int
    size: int
    label: int | str | None


def members(path: Path) -> list[Member]:
    """The images of a tar file in the order they lie there, with the class of each."""
    images: list[tuple[str, int, int]] = []
    labels: dict[str, int] = {}
    try:
        with path.open("rb") as file:
            for name, offset, size in _regular(path):
                key, _, suffix = name.rpartition(".")
                if f".{suffix.lower()}" in SUFFIXES:
                    images.append((name, offset, size))
                elif suffix.lower() == "cls" and size <= LABEL_BYTES:
                    file.seek(offset)
                    text = file.read(size).strip()
                    if text.isdigit() and len(text) < 7:
                        labels[key] = int(text)
    except (OSError, tarfile.TarError, ValueError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as a tar file ({error})") from None
    return [
        Member(name, offset, size, labels.get(name.rpartition(".")[0], PurePosixPath(name).parent.name or None))
        for name, offset, size in images
    ]


def _regular(path: Path) -> Iterator[tuple[str, int, int]]:
    """Name, offset and size of the plain files in a tar file.

    Refuses members that do not follow each other inside the file: a negative size would lead back, without end.
    """
    length, last = path.stat().st_size, -1
    with tarfile.open(path, "r:") as archive:
        for count, member in enumerate(archive, start=1):
            archive.members = []  # type: ignore[attr-defined]  # or all of them would be kept
            if count > MOST:
                raise ValueError(f"it has more than {MOST:,} members")
            plain = member.isreg() and not member.issparse()
            fits = 0 <= member.size <= length - member.offset_data or not plain
            if not (last < member.offset < member.offset_data <= length and fits):
                raise ValueError(f"member {count}, of {member.size:,} bytes, does not lie behind the one before it")
            last = member.offset
            if plain:
                yield as_text(os.fsencode(member.name)), member.offset_data, member.size
