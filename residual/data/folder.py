"""Any folder of images: one folder per class, with or without train/, val/ and test/ above.

    pets/cat/1.jpg  pets/dog/2.png                 a fifth of each class is held out for validation
    pets/train/cat/1.jpg  pets/val/cat/9.jpg       the split that is there

A class is a folder; images in folders inside it belong to it.  Hidden files and folders are passed over.
Each real file is taken once, whatever links lead to it.  Nothing is ever written here, and only regular files
are opened.  Paths are bytes, because names need not be text.
"""

# pathlib has no paths of bytes
# ruff: noqa: PTH110, PTH113, PTH114, PTH116, PTH119, PTH122

import os
import stat
import unicodedata
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from residual.data.assemble import Entry, Listing
from residual.data.decode import sniff
from residual.data.images import Problem
from residual.data.loader import File
from residual.data.split import SPELLINGS

IMAGES = (b".jpg", b".jpeg", b".jpe", b".jfif", b".png", b".apng", b".webp", b".bmp", b".dib", b".gif")
OTHER_IMAGES = (
    b".tif", b".tiff", b".heic", b".heif", b".avif", b".jxl", b".jp2", b".j2k", b".svg", b".psd", b".ico",
    b".tga", b".ppm", b".pgm", b".pbm", b".raw", b".cr2", b".nef", b".dng", b".exr", b".dcm", b".hdr",
)  # fmt: skip
NOT_IMAGES = (b".txt", b".md", b".csv", b".tsv", b".json", b".xml", b".yaml", b".yml", b".html", b".db")
NOT_CLASSES = (b"__MACOSX", b"@eaDir", b"$RECYCLE.BIN", b"lost+found", b"__pycache__")
A_RUN = "the folder of a training (it holds run.json); it is not read"


def as_text(path: bytes) -> str:
    """A path as text that can be shown and stored; bytes that are no UTF-8 become \\xNN."""
    return path.decode("utf-8", "backslashreplace")


def list_folder(path: Path, *, lenient: bool = False) -> Listing:
    """The images of a folder, none of them read yet.

    lenient: what would be refused becomes a fault, and the rest is listed, as far as there is a class to read.

    Raises ValueError where the layout leaves open what is meant: no classes or one, a class without images,
    names that differ only in case, a validation class that training does not have.
    """
    survey = _Survey(path, lenient=lenient)
    splits = _splits(survey)
    classes = {split: _classes(survey, folder, split) for split, folder in splits.items()}
    classes = {split: named for split, named in classes.items() if named}
    _match_by_name(classes, survey)

    found: list[tuple[str, str, _Found]] = []
    for reading in (survey.claim, survey.real, survey.linked):  # no link before all folders are known
        for split, named in classes.items():
            for name, folder in sorted(named.items()):
                found += [(split, name, file) for file in reading(folder)]
    order = list(classes)
    found.sort(key=lambda one: (order.index(one[0]), one[1], one[2].name))

    counts = Counter((split, name) for split, name, _ in found)
    names = tuple(
        name
        for name, folder in sorted(classes["train"].items())
        if counts["train", name]
        or not (_is_link(folder) or survey.holds_runs(folder))  # a link to another class is no class, nor is runs/
    )
    trouble = _too_few(names, counts)
    if trouble is not None and (not lenient or len(names) < 2):  # of classes without images more is known later
        survey.fault(survey.root, trouble)
    for split, folder in splits.items():
        for name in names:
            if split in classes and not counts[split, name]:
                missing = classes[split].get(name, folder + b"/" + os.fsencode(name))
                survey.problem(missing, f"no {split} images for this class")

    as_found = len(classes) > 1
    label = {name: number for number, name in enumerate(names)}
    entries = [
        Entry(
            file=File(name=file.name, path=file.path, stamp=file.stamp),
            label=label[name],
            split=split if as_found else None,
        )
        for split, name, file in found
        if name in label
    ]
    return Listing(
        entries=entries,
        classes=names,
        origin=f"folder {path.name}",
        problems=tuple(survey.problems),
        faults=tuple(survey.faults),
        split={"made": "as the folders are", "other_files": survey.others},
    )


@dataclass(frozen=True)
class _Found:
    path: bytes
    name: str  # relative to the data, printable
    stamp: tuple[int, int]


class _Survey:
    """One walk over the user's folder: what was seen, by device and inode, and what was wrong."""

    def __init__(self, root: Path, *, lenient: bool) -> None:
        self.root, self.lenient = os.fsencode(root), lenient
        self.problems: list[Problem] = []
        self.faults: list[Problem] = []
        self.others = 0  # files that are no images
        self.files: dict[tuple[int, int], bytes] = {}
        self.folders: dict[tuple[int, int], bytes] = {}
        self.links: dict[bytes, list[bytes]] = {}  # class folder -> links inside, for later
        self.runs: list[bytes] = []  # folders of trainings, such as runs/resnet18
        for folder in (root, *root.parents):  # a link to one of these would lead back here
            self.folders[_identity(os.stat(folder))] = os.fsencode(folder)

    def relative(self, path: bytes) -> str:
        inside = path.startswith(self.root + b"/")
        return as_text(path[len(self.root) + 1 :] if inside else path)

    def problem(self, path: bytes, reason: str) -> None:
        self.problems.append(Problem(path=self.relative(path), reason=reason))

    def fault(self, path: bytes, reason: str) -> None:
        """What no training would begin with: refused, or listed for somebody who only looks."""
        if not self.lenient:
            raise ValueError(f"{as_text(path)}: {reason}")
        self.faults.append(Problem(path=self.relative(path), reason=reason))

    def is_run(self, folder: bytes) -> bool:
        """Whether a training left this folder here; then it is no class, and nothing in it is an image."""
        if not os.path.isfile(folder + b"/run.json"):
            return False
        self.runs.append(folder)
        self.problem(folder, A_RUN)
        return True

    def holds_runs(self, folder: bytes) -> bool:
        """Whether folders of trainings were passed over in it."""
        return any(run.startswith(folder + b"/") for run in self.runs)

    def claim(self, folder: bytes) -> Iterator[_Found]:
        """A class folder that is no link is taken before any link can lead to it; no files yet."""
        if not _is_link(folder):
            self.folders.setdefault(_identity(os.stat(folder)), folder)
        return iter(())

    def real(self, folder: bytes) -> Iterator[_Found]:
        """The files below a class folder, links left for later."""
        links = self.links.setdefault(folder, [])
        if _is_link(folder):
            links.append(folder)
        else:
            yield from self._walk(folder, links)

    def linked(self, folder: bytes) -> Iterator[_Found]:
        """What links inside a class folder lead to and no folder or link before did."""
        pending = deque(sorted(self.links[folder]))
        while pending:
            link = pending.popleft()
            try:
                status = os.stat(link)
            except OSError as error:
                self.problem(link, f"a link that leads nowhere ({error.strerror})")
                continue
            if stat.S_ISDIR(status.st_mode):
                earlier = self.folders.setdefault(_identity(status), link)
                if earlier is not link:
                    self.problem(link, f"a link to a folder that is read already ({self.relative(earlier)})")
                    continue
                if self.is_run(link):
                    continue
                more: list[bytes] = []
                yield from self._walk(link, more)
                pending.extend(sorted(more))
            else:
                yield from self._file(link, status)

    def _walk(self, top: bytes, links: list[bytes]) -> Iterator[_Found]:
        pending = [top]
        while pending:
            folder = pending.pop()
            try:
                with os.scandir(folder) as listing:
                    inside = sorted(listing, key=lambda one: one.name)
            except OSError as error:
                self.problem(folder, f"a folder that cannot be read ({error.strerror})")
                continue
            deeper = []
            for one in inside:
                if one.name.startswith(b".") or one.name in NOT_CLASSES:
                    continue
                try:
                    if one.is_symlink():
                        links.append(one.path)
                        continue
                    status = one.stat(follow_symlinks=False)
                except OSError as error:
                    self.problem(one.path, f"cannot be looked at ({error.strerror})")
                    continue
                if stat.S_ISDIR(status.st_mode):
                    if self.folders.setdefault(_identity(status), one.path) == one.path:
                        if not self.is_run(one.path):
                            deeper.append(one.path)
                    else:  # mounted twice
                        self.problem(one.path, "a folder that is read already")
                else:
                    yield from self._file(one.path, status)
            pending.extend(reversed(deeper))

    def _file(self, path: bytes, status: os.stat_result) -> Iterator[_Found]:
        if not stat.S_ISREG(status.st_mode):
            self.problem(path, f"{_kind(status.st_mode)}, not a file; it is never opened")
            return
        suffix = os.path.splitext(path)[1].lower()
        if suffix not in IMAGES:
            if suffix in OTHER_IMAGES:
                self.problem(path, f"{suffix.decode()[1:].upper()} is not read; convert it to PNG or JPEG")
                return
            if suffix in NOT_IMAGES or not _starts_like_an_image(path):
                self.others += 1
                return
        earlier = self.files.setdefault(_identity(status), path)
        if earlier is not path:
            self.problem(path, f"the same file as {self.relative(earlier)}, which is taken once")
            return
        yield _Found(path, self.relative(path), (status.st_size, status.st_mtime_ns))


def _splits(survey: _Survey) -> dict[str, bytes]:
    """The folders of the splits; a folder without any is its own train split."""
    folders = {os.path.basename(folder): folder for folder in _listing(survey.root).folders}
    splits: dict[str, bytes] = {}
    for split, spellings in SPELLINGS.items():
        matches = sorted(name for name in folders if as_text(name).lower() in spellings)
        if len(matches) > 1:
            both = _listed([as_text(name) for name in matches])
            raise ValueError(f"{as_text(survey.root)}: {both} could both be the {split} split; keep one")
        if matches:
            splits[split] = folders[matches[0]]
    if "train" not in splits:
        if splits and len(splits) == len(folders):
            there = _listed([as_text(os.path.basename(folder)) for folder in splits.values()])
            raise ValueError(f"{as_text(survey.root)}: there is {there} but no train folder; add train/")
        return {"train": survey.root}  # a class may be called test
    for folder in splits.values():
        survey.folders.setdefault(_identity(os.stat(folder)), folder)
    for folder in folders.values():
        if folder not in splits.values() and not survey.is_run(folder):
            survey.problem(folder, "a folder beside train/ that is no split; it is not read")
    return splits


def _classes(survey: _Survey, folder: bytes, split: str) -> dict[str, bytes]:
    """Class names and their folders; refuses two names that some file systems cannot tell apart."""
    listing = _listing(folder)
    named: dict[str, bytes] = {}
    alike: dict[str, str] = {}
    for inside in listing.folders:
        if survey.is_run(inside):
            continue
        name = as_text(os.path.basename(inside))
        other = alike.setdefault(_alike(name), name)
        if other != name or name in named:
            survey.fault(
                folder,
                f"classes {other!r} and {name!r} differ only in case or in how letters are composed, and many file "
                "systems hold them for one; rename or merge them",
            )
        else:
            named[name] = inside
    for link in listing.dangling:
        survey.problem(link, "a link that leads nowhere")
    if not named and split == "test":
        survey.problem(folder, "a test folder without class folders: its images have no labels")
    elif not named:
        there = f"{listing.images} images but no folders" if listing.images else "no folders and no images"
        advice = f"it holds {there}; make one folder per class with its images inside, such as cat/1.jpg and dog/2.jpg"
        if split == "train":
            raise ValueError(f"{as_text(folder)}: {advice}")
        survey.fault(folder, advice)
    elif listing.images:
        survey.problem(folder, f"{listing.images} images outside any class folder have no label")
    return named


def _match_by_name(classes: dict[str, dict[str, bytes]], survey: _Survey) -> None:
    """Whatever class a held-out split has, training must have, by the same name."""
    train = {_alike(name): name for name in classes["train"]}
    for split, named in classes.items():
        for name in sorted(set(named) - set(classes["train"])):
            near = train.get(_alike(name))
            if near is not None and unicodedata.normalize("NFC", near) == unicodedata.normalize("NFC", name):
                named[near] = named.pop(name)  # one name, written by two file systems
                continue
            hint = f" (it has {near!r})" if near else ""
            survey.fault(
                named.pop(name),
                f"{split} has the class {name!r}, which train does not have{hint}; rename the folder, remove it, or "
                "add the class to train",
            )


def _too_few(names: tuple[str, ...], counts: Counter[tuple[str, str]]) -> str | None:
    empty = [name for name in names if not counts["train", name]]
    if empty:
        return f"class {_listed(empty)} has no images; add some, or remove the folder if it is no class"
    if len(names) < 2:
        return (
            f"there is one class only, {_listed(list(names))}, so there is nothing to tell apart; make one folder per "
            "class, with its images inside"
        )
    return None


@dataclass(frozen=True)
class _Listing:
    folders: list[bytes]
    dangling: list[bytes]
    images: int  # that lie here, outside any folder


def _listing(folder: bytes) -> _Listing:
    listing = _Listing([], [], 0)
    images = 0
    try:
        with os.scandir(folder) as inside:
            for one in sorted(inside, key=lambda one: one.name):
                if one.name.startswith(b".") or one.name in NOT_CLASSES:
                    continue
                if one.is_dir():
                    listing.folders.append(one.path)
                elif one.is_symlink() and not os.path.exists(one.path):
                    listing.dangling.append(one.path)
                else:
                    images += os.path.splitext(one.name)[1].lower() in IMAGES
    except OSError as error:
        raise ValueError(f"{as_text(folder)} cannot be read ({error.strerror})") from None
    return replace(listing, images=images)


def _starts_like_an_image(path: bytes) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        return True  # let the reader say why it cannot be opened
    try:
        return stat.S_ISREG(os.fstat(descriptor).st_mode) and sniff(os.read(descriptor, 16))
    except OSError:
        return True
    finally:
        os.close(descriptor)


def _is_link(path: bytes) -> bool:
    return os.path.islink(path)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _alike(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _kind(mode: int) -> str:
    devices = {stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
    kinds = {stat.S_IFIFO: "a fifo", stat.S_IFSOCK: "a socket"} | devices
    return kinds.get(stat.S_IFMT(mode), "something else")


def _listed(names: list[str]) -> str:
    shown = [repr(name) for name in names[:5]]
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(shown) + more
