"""Which data is meant, and who reads it."""

from pathlib import Path

from residual.data.assemble import Listing, Progress, assemble
from residual.data.cifar import CIFAR10, CIFAR100, Source, download_cifar, find_cifar, read_cifar
from residual.data.decode import View
from residual.data.digits import read_digits
from residual.data.folder import list_folder
from residual.data.images import Dataset
from residual.data.kept import cache_folder
from residual.data.localization import is_tiny_imagenet, list_tiny_imagenet
from residual.data.pack import is_pack, read_pack
from residual.data.parquet import find_parquet, list_parquet
from residual.data.shapes import read_shapes
from residual.data.shards import find_shards, list_shards

NAMES = ("cifar10", "cifar100", "digits", "shapes")


def open_dataset(
    where: str,
    *,
    size: int | None = None,
    view: View | None = None,
    seed: int = 0,
    workers: int = 0,
    download: bool = False,
    progress: Progress | None = None,
    lenient: bool = False,
) -> Dataset:
    """Read a named data set or a folder.

    where: cifar10, cifar100, digits, shapes, or a path: CIFAR's archive or the folder it unpacks to, a pack
        (`residual data pack`), parquet files as on the Hugging Face hub, tar shards, or a folder of images.
    size: side that the network will see; decides the side at which images of a folder are kept.
    view: how a network that is trained already wants files decoded, instead (transforms.view).
    seed: decides which images of a folder without a split are held out, and what `shapes` draws.
    download: whether CIFAR may be fetched when it is not there.
    progress: called with (files read, files in all); of a download, bytes.
    lenient: list classes without images as problems instead of refusing the data; for looking at it, not training.
    """
    if where in NAMES and Path(where).is_dir():
        raise ValueError(
            f"{where!r} could be the data set or the folder of that name here: write ./{where} for the folder; for the "
            "data set, go to another folder or rename this one"
        )
    if where == "digits":
        return read_digits()
    if where == "shapes":
        return read_shapes(size=size or 32, seed=seed)
    if where in ("cifar10", "cifar100"):
        path = _locate(CIFAR10 if where == "cifar10" else CIFAR100, cache_folder(), download, progress)
    else:
        path = Path(where).expanduser()
    if not path.exists():
        raise ValueError(f"there is no {where!r}; data is one of {', '.join(NAMES)}, or the path of a folder")
    found = find_cifar(path)
    if found is not None:
        return read_cifar(*found)
    if path.is_file():
        raise ValueError(f"{where} is a file; data is a folder, or CIFAR's archive under its own name")
    if is_pack(path):
        return read_pack(path, size=size, view=view, seed=seed, workers=workers, progress=progress)
    listing = list_images(path, lenient=lenient)
    return assemble(listing, size=size, view=view, seed=seed, workers=workers, progress=progress, lenient=lenient)


def list_images(path: Path, *, lenient: bool = False) -> Listing:
    """The images in a folder, whatever its kind: parquet files, tar shards, Tiny ImageNet, or images by class."""
    if tables := find_parquet(path):
        return list_parquet(path, tables)
    if shards := find_shards(path):
        return list_shards(path, shards)
    if is_tiny_imagenet(path) and (path / "val" / "images").is_dir():  # not where somebody has sorted them by class
        return list_tiny_imagenet(path.resolve())
    return list_folder(path.resolve(), lenient=lenient)


def _locate(source: Source, cache: Path, download: bool, progress: Progress | None) -> Path:
    """CIFAR in the user's cache: its folder, its archive, or its images as files, by class."""
    images = cache / source.title.lower().replace("-", "")
    for there in (cache / source.folder, cache / source.archive):
        if find_cifar(there) is not None:
            return there
    if images.is_dir():
        return images
    if download:
        return download_cifar(source, cache, progress=progress)
    raise ValueError(
        f"{source.title} is not here: no {source.archive} in {cache}. Ask for the download (170 MB, --download), put "
        f"the archive from {source.url} there, or give a folder with it, or with its images, as the data"
    )
