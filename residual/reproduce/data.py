"""The data sets of the experiments by name: what they are, where they come from, and where they lie on this machine.

Trained weights that a detector begins with are data too.  An experiment is never fed other data than the named ones:
the number of images and of classes is looked at first, and of CIFAR the images themselves; of weights the network.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from residual.data.images import ImageFiles, Images
from residual.data.kept import cache_folder
from residual.data.objects import ObjectImages
from residual.data.open_objects import ObjectDataset, open_objects
from residual.data.sources import open_dataset
from residual.models.resnet import ResNet
from residual.pipeline.detection import trained_trunk

FETCHED = ("cifar10", "cifar100")  # what --download can bring
DRAWN = ("shapes", "digits", "scenes:4000", "scenes:16", "shapes:16")  # always here
AT_ONCE = 1_000  # images
LACKING = 500  # of so many images with objects one may be missing: copies lack a few, or hold some that are damaged
DET_VALIDATION = 20_121  # images, of which the paper trains on one half and measures on the other


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data set.  train, held: images to train on and to measure on; classes; size: side of an image, pixels.

    origin: where it comes from.
    content: `content` of the images to train on and of those to measure on, where one form of them is the true one.
    lists: of a VOCdevkit or an ILSVRC folder, which of its lists; see `open_objects`.
    lacking: of images with objects one of so many may be missing, of those to train on and of those held out.
    network: trained weights, of this network; `classes` are what it tells apart.
    """

    title: str
    origin: str
    train: int = 0
    held: int = 0
    classes: int = 0
    size: int = 224
    content: tuple[str, ...] = ()
    lists: str | None = None
    lacking: tuple[int, int] = (LACKING, LACKING)
    network: str = ""


CIFAR_ORIGIN = "https://www.cs.toronto.edu/~kriz/cifar.html, or --download"
IMAGENET_ORIGIN = "https://image-net.org, after registering"
VOC_ORIGIN = "http://host.robots.ox.ac.uk/pascal/VOC"
TRUNKS = "the file that torchvision publishes, or any that `residual weights` reads"
OWN = "residual train --data tiny-imagenet-200 --model"

DATA: dict[str, Source] = {
    "cifar10": Source(
        title="CIFAR-10",
        origin=CIFAR_ORIGIN,
        train=50_000,
        held=10_000,
        classes=10,
        size=32,
        content=(
            "44df4e0358e47902d1cb57f25784e5e434cfb5e6c118855b54f6ac3601640b9d",
            "7f5791fff9cc80cf38be5611dbccb5d2c8da7760e7277987bbafa341fb2b5cc6",
        ),
    ),
    "cifar100": Source(
        title="CIFAR-100",
        origin=CIFAR_ORIGIN,
        train=50_000,
        held=10_000,
        classes=100,
        size=32,
        content=(
            "72d8259ac5e1c7ea6d22cf0cb55da1f6355d9b304776a0d83da30703a17a7d22",
            "dc5b9ac7808b6988e97ad394bc9db2b3898d05834b6b7d48fc2bfb038f86c93b",
        ),
    ),
    "svhn": Source(
        title="SVHN", origin="http://ufldl.stanford.edu/housenumbers", train=604_388, held=26_032, classes=10, size=32
    ),
    "imagenet": Source(
        title="ImageNet (ILSVRC 2012)", origin=IMAGENET_ORIGIN, train=1_281_167, held=50_000, classes=1000
    ),
    "imagenet-loc": Source(
        title="ImageNet with boxes (ILSVRC localization)",
        origin=IMAGENET_ORIGIN,
        train=544_546,
        held=50_000,
        classes=1000,
        lists="CLS-LOC",
    ),
    "imagenet-det": Source(
        title="ImageNet detection (ILSVRC DET)",
        origin=IMAGENET_ORIGIN,
        train=456_567 + DET_VALIDATION // 2 + 1,
        held=DET_VALIDATION // 2 + 1,
        classes=200,
        lists="DET",
        # the training images without objects have no annotation, and how many they are is not published; the halves
        # that others made of the validation images are not as large as ours
        lacking=(2, 50),
    ),
    "tiny-imagenet": Source(
        title="Tiny ImageNet",
        origin="http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        train=100_000,
        held=10_000,
        classes=200,
        size=64,
    ),
    "imagenette": Source(
        title="Imagenette v2",
        origin="https://github.com/fastai/imagenette",
        train=9_469,
        held=3_925,
        classes=10,
        size=128,
    ),
    "voc07": Source(
        title="PASCAL VOC 2007, train and val",
        origin=f"{VOC_ORIGIN}/voc2007",
        train=2_501,
        held=2_510,
        classes=20,
        lists="2007:train/2007:val",
    ),
    "voc07+12": Source(
        title="PASCAL VOC 2007 and 2012", origin=VOC_ORIGIN, train=16_551, held=4_952, classes=20, lists="07+12"
    ),
    "coco": Source(title="COCO (2014)", origin="https://cocodataset.org", train=82_783, held=40_504, classes=80),
    "vgg16-imagenet": Source(
        title="VGG-16 trained on ImageNet",
        origin="the file that torchvision publishes as vgg16",
        classes=1000,
        network="vgg16",
    ),
    "resnet101-imagenet": Source(
        title="ResNet-101 trained on ImageNet", origin=TRUNKS, classes=1000, network="resnet101"
    ),
    "resnet18-tiny-imagenet": Source(
        title="ResNet-18 trained on Tiny ImageNet", origin=f"{OWN} resnet18", classes=200, network="resnet18"
    ),
    "resnet34-tiny-imagenet": Source(
        title="ResNet-34 trained on Tiny ImageNet", origin=f"{OWN} resnet34", classes=200, network="resnet34"
    ),
    "shapes": Source(title="drawn shapes", origin="drawn by this program", train=2_000, held=500, classes=10, size=32),
    "scenes:4000": Source(title="drawn scenes", origin="drawn by this program", train=4_000, held=200, classes=10),
    "scenes:16": Source(title="sixteen drawn scenes", origin="drawn by this program", train=16, held=4, classes=10),
    "shapes:16": Source(title="sixteen drawn shapes", origin="drawn by this program", train=16, held=4, classes=10),
    "digits": Source(
        title="handwritten digits", origin="part of scikit-learn", train=1_437, held=360, classes=10, size=8
    ),
}


def source(name: str) -> Source:
    """The data set called `name`."""
    if name not in DATA:
        raise ValueError(f"there is no data set {name!r}; there are: {', '.join(DATA)}")
    return DATA[name]


def given(flags: list[str], needed: set[str]) -> dict[str, Path]:
    """What `--data [NAME=]DIR` says, by the name of the data set.  needed: names of which one may be left out."""
    places: dict[str, Path] = {}
    for flag in flags:
        name, equals, place = flag.partition("=")
        if not equals or name not in DATA:
            if equals and not Path(flag).exists():
                source(name)
            if len(needed) != 1:
                names = ", ".join(sorted(needed)) or "none"
                raise ValueError(
                    f"--data {flag} does not say which data set it is, and the experiments need {names}; write "
                    f"--data NAME={flag}"
                )
            (name,), place = needed, flag
        if name in places:
            raise ValueError(f"--data names {name} twice: {places[name]} and {place}; give one of them")
        if name in DRAWN:
            raise ValueError(f"{DATA[name].title} are made by this program; leave out --data {flag}")
        path = Path(place).expanduser()
        if not path.exists():
            raise ValueError(f"--data {flag}: there is no {place}; give the folder that holds {DATA[name].title}")
        places[name] = path.resolve()
    return places


def where(name: str, places: Mapping[str, Path]) -> str | None:
    """What `Plan.data` says to find the data set: a name or a path; None where it is not on this machine."""
    source(name)
    if name in places:
        return str(places[name])
    if name in DRAWN:
        return name
    if name in FETCHED:
        return name if _cached(name) else None
    own = cache_folder() / name
    return str(own.resolve()) if own.exists() else None


def _cached(name: str) -> bool:
    from residual.data.cifar import CIFAR10, CIFAR100, find_cifar

    kind, cache = {"cifar10": CIFAR10, "cifar100": CIFAR100}[name], cache_folder()
    found = any(find_cifar(cache / there) is not None for there in (kind.folder, kind.archive))
    return found or (cache / name).is_dir()


def missing(name: str) -> str:
    """What a user can do about a data set that is not here."""
    one = source(name)
    where = f"--data {name}={'RUN|WEIGHTS' if one.network else 'DIR'}"
    return f"{one.title}, which is not here: it comes from {one.origin}; say where it lies with {where}"


def refuse_others(name: str, place: str, *, workers: int = 0, download: bool = False) -> None:
    """Read the data at `place` and refuse it if its counts are not those of the data set `name`."""
    expected = source(name)
    if name in DRAWN:
        return
    size = None if expected.size <= 64 else expected.size
    found = open_dataset(place, size=size, workers=workers, download=download)
    held = found.test or found.validation
    counts = (len(found.train), len(held) if held else 0, len(found.classes))
    if counts != (expected.train, expected.held, expected.classes):
        told = [
            f"{train:,} training images, {test:,} held out, {classes} classes"
            for train, test, classes in (counts, (expected.train, expected.held, expected.classes))
        ]
        raise ValueError(
            f"{place} is not {expected.title}: it has {told[0]}, and {expected.title} has {told[1]}; experiments are "
            f"run on the data they name or not at all; give the whole set with --data {name}=DIR"
        )
    for what, images, true in zip(("training", "test"), (found.train, held), expected.content, strict=False):
        if images is not None and (own := content(images)) != true:
            raise ValueError(
                f"{place} has the counts of {expected.title}, but its {what} images or their labels are others "
                f"(fingerprint {own[:12]}, not {true[:12]}); files that were resized or saved as JPEG are other images "
                f"too; give the set as it was published, from {expected.origin}"
            )


def refuse_other_objects(name: str, place: str, *, workers: int = 0) -> None:
    """Read the images with objects at `place`, and refuse them if their counts are not those of the data set `name`."""
    expected = source(name)
    if name in DRAWN:
        return
    try:
        found = open_objects(place, lists=expected.lists, workers=workers)
    except ValueError as problem:
        raise ValueError(f"{place} is not {expected.title}: {problem}") from problem
    held = held_out(found, expected.lists)
    counts = (len(found.train), len(held or ()), len(found.classes))
    wanted = (expected.train, expected.held, expected.classes)
    if counts[2] != wanted[2] or any(
        not 0 <= most - count <= most / lacking
        for most, count, lacking in zip(wanted[:2], counts[:2], expected.lacking, strict=True)
    ):
        told = [
            f"{train:,} images to train on, {test:,} held out, {classes} classes"
            for train, test, classes in (counts, wanted)
        ]
        raise ValueError(
            f"{place} is not {expected.title}: it has {told[0]}, and {expected.title} has {told[1]}; experiments are "
            f"run on the data they name or not at all; give the whole set with --data {name}=DIR"
        )


def held_out(data: ObjectDataset, lists: str | None) -> ObjectImages | None:
    """The images that a detector is measured on: those that the lists say, else test before validation images."""
    asked = data.validation if lists is not None and "/" in lists else None
    return asked or data.test or data.validation


def refuse_other_weights(name: str, place: str) -> None:
    """Read the trained weights at `place`, and refuse them if they are not of the network and classes of `name`."""
    expected = source(name)
    try:
        found = trained_trunk(place, f"faster_rcnn_{expected.network}_c4")
    except ValueError as problem:
        raise ValueError(f"{place} is not {expected.title}: {problem}") from problem
    classes = found.net.description.classes if isinstance(found.net, ResNet) else expected.classes
    if classes != expected.classes:
        raise ValueError(
            f"{place} is not {expected.title}: it tells {classes} classes apart, not {expected.classes}; name "
            f"the right weights with --data {name}=RUN|WEIGHTS"
        )


def content(images: Images | ImageFiles) -> str:
    """A fingerprint of pixels and their grouping into classes, whatever the order of either and the classes' names.

    SHA-256 over the sorted sums, one for each class, of the SHA-256 of its images.
    """
    sums = [0] * len(images.classes)
    labels = images.labels.tolist()
    places = [torch.arange(start, min(start + AT_ONCE, len(labels))) for start in range(0, len(labels), AT_ONCE)]
    for rows, pixels in zip(places, images.stream(places), strict=True):
        for row, image in zip(rows.tolist(), pixels.cpu().contiguous().numpy(), strict=True):
            sums[labels[row]] += int.from_bytes(hashlib.sha256(repr(image.shape).encode() + image.tobytes()).digest())
    return hashlib.sha256(b"".join(each.to_bytes(40) for each in sorted(sums))).hexdigest()
