"""How fast do photographs become training windows?  Ours beside torchvision's two ways, on the same cores, in one run.

    python benchmarks/input.py PHOTOS [--cores 2] [--rounds 5] [--seconds 5] [--loader] [--json]

Every contestant reads JPEG files, takes a random resized crop of 224 pixels (8-100 % of the area, antialiased
bilinear), mirrors half of them and hands on uint8: normalising is for the device.  A process on each core, all cores
at once, lets the contestants take turns of a fifth of a second; ratios are between the sums of one round.  Seconds are
those of the processor, so that other work on the same machine counts for little.

    pil          torchvision ImageFolder's loader (Pillow), transforms.RandomResizedCrop, RandomHorizontalFlip
    pil float    the same with ToTensor and Normalize, as most training scripts have it
    tv           torchvision.io.decode_jpeg and transforms.v2
    ours         residual.data.crop, the part that runs in the decoding processes of `residual train`
    ours packed  the same on a pack of the photographs, shrunk to a shorter side of 256 pixels, JPEG quality 90

With --loader, whole loaders are compared instead, from files to batches of 64 in the training process: a DataLoader
with one process per core beside residual.data.loader.Pool with as many; all of it on the same cores, by the clock.
The photographs are taken as they are and, enlarged four times, as large ones.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

SIZE, BATCH = 224, 64
SLICE = 0.2  # seconds of the processor that a contestant has at a time
LARGE = 400_000  # pixels; photographs up to this are enlarged for the second half


def photographs(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    if not files:
        raise SystemExit(f"there are no JPEG files in {folder}")
    return files


def enlarge(files: list[Path], folder: Path) -> None:
    """The same photographs, four times as wide and high, as JPEG of quality 90."""
    from PIL import Image

    for path in files:
        image = Image.open(path).convert("RGB")
        if image.width * image.height <= LARGE:
            image.resize((4 * image.width, 4 * image.height), Image.Resampling.BICUBIC).save(
                folder / f"{path.stem}.jpg", quality=90
            )


def in_classes(files: list[Path], folder: Path) -> Path:
    """Links to the files in two class folders, for those who want classes."""
    for number, path in enumerate(files):
        place = folder / "train" / f"class{number % 2}" / f"{number:05}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(path.resolve())
    return folder


# --- contestants, one image at a time ------------------------------------------------------------------------------


def pil(transform: Callable[[object], object]) -> Callable[[Path, int], object]:
    from torchvision.datasets.folder import default_loader

    return lambda path, number: transform(default_loader(str(path)))


def make_contestant(name: str) -> Callable[[Path, int], object]:
    import torch
    import torchvision
    from torchvision import transforms
    from torchvision.transforms import v2

    torch.set_num_threads(1)
    standard = [transforms.RandomResizedCrop(SIZE), transforms.RandomHorizontalFlip()]
    if name == "pil":
        return pil(transforms.Compose([*standard, transforms.PILToTensor()]))
    if name == "pil float":
        normalize = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        return pil(transforms.Compose([*standard, transforms.ToTensor(), normalize]))
    if name == "tv":
        vary = v2.Compose([v2.RandomResizedCrop(SIZE, antialias=True), v2.RandomHorizontalFlip()])
        mode = torchvision.io.ImageReadMode.RGB
        read, decode = torchvision.io.read_file, torchvision.io.decode_jpeg
        return lambda path, number: vary(decode(read(str(path)), mode=mode))

    from residual.data.crop import Crop, crop_file
    from residual.data.decode import read as read_bytes

    crop = Crop(size=SIZE)
    return lambda path, number: crop_file(read_bytes(str(path)), crop, (0, 0, number), "RGB", fast=True)


def packed(pack: Path) -> Callable[[int], object]:
    """Windows of a pack's training images, each checked by its SHA-256 as in training."""
    import hashlib

    import torch

    from residual.data.crop import Crop, crop_file
    from residual.data.decode import read
    from residual.data.sources import open_dataset

    torch.set_num_threads(1)
    files, crop = open_dataset(str(pack)).train.files, Crop(size=SIZE)

    def one(number: int) -> object:
        file = files[number % len(files)]
        data = read(file.path, stamp=file.stamp, span=file.span)
        assert hashlib.sha256(data).digest() == file.digest
        return crop_file(data, crop, (0, 0, number), "RGB", fast=True)

    return one


def taking_turns(names: list[str], folder: Path, seconds: float, rounds: int) -> dict[str, list[float]]:
    """Images per second of each contestant in each round, all in this process, a fifth of a second at a time."""
    import torch

    torch.manual_seed(0)
    files = photographs(folder / "train")
    random.Random(0).shuffle(files)

    def on_files(contestant: Callable[[Path, int], object]) -> Callable[[int], object]:
        return lambda number: contestant(files[number % len(files)], number)

    work = {
        name: packed(folder / "pack") if name == "ours packed" else on_files(make_contestant(name)) for name in names
    }
    for one in work.values():
        for number in range(20):
            one(number)
    found: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        spent, done = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0)
        while min(spent.values()) < seconds:
            for name, one in work.items():
                began, first = time.process_time(), done[name]
                while time.process_time() - began < SLICE:
                    one(done[name])
                    done[name] += 1
                spent[name] += time.process_time() - began
                assert done[name] > first
        for name in names:
            found[name].append(done[name] / spent[name])
    return found


# --- whole loaders -------------------------------------------------------------------------------------------------


def through_loader(name: str, folder: Path, seconds: float, workers: int) -> float:
    """Images per second of a loader that makes batches of uint8 in this process."""
    import torch

    torch.set_num_threads(1)
    batches = ours_batches(folder, workers, name) if name.startswith("ours") else their_batches(name, folder, workers)
    for _ in range(2 + 2 * workers):  # what was made before the clock starts does not count for much
        next(batches)
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        count += len(next(batches))
    return count / (time.perf_counter() - began)


def their_batches(name: str, folder: Path, workers: int) -> Iterator[object]:
    import torch
    from torch.utils.data import DataLoader, Dataset

    files = photographs(folder / "train")

    class Photographs(Dataset):
        def __len__(self) -> int:
            return 1_000_000

        def __getitem__(self, index: int) -> object:
            if not hasattr(self, "contestant"):
                self.contestant = make_contestant(name)
            return self.contestant(files[index % len(files)], index)

    torch.manual_seed(0)
    yield from DataLoader(Photographs(), BATCH, shuffle=True, num_workers=workers, drop_last=True, prefetch_factor=2)


def ours_batches(folder: Path, workers: int, name: str) -> Iterator[object]:
    import torch

    from residual.data.crop import Crop
    from residual.data.decode import View
    from residual.data.images import ImageFiles
    from residual.data.loader import File
    from residual.data.sources import open_dataset

    if name == "ours packed":
        images = open_dataset(str(folder / "pack"), workers=workers).train
    else:
        paths = photographs(folder / "train")
        images = ImageFiles(
            files=[File(name=path.name, path=os.fsencode(path)) for path in paths],
            labels=torch.zeros(len(paths), dtype=torch.int64),
            classes=("photograph",),
            names=[path.name for path in paths],
            view=View(size=256, resize=256),
            workers=workers,
        )

    def wanted() -> Iterator[tuple[Crop, int, torch.Tensor, torch.Tensor]]:
        generator = torch.Generator().manual_seed(0)
        visit = 0
        while True:
            indices = torch.randint(0, len(images), (BATCH,), generator=generator)
            yield Crop(size=SIZE), 0, torch.full_like(indices, visit), indices
            visit += 1

    yield from images.windows(wanted())


# --- quality -------------------------------------------------------------------------------------------------------


def quality(files: list[Path], visits: int = 3) -> list[float]:
    """PSNR of our windows against Pillow's: the whole file decoded, the same window cut, resized with antialiasing."""
    import numpy as np

    from residual.data.crop import Crop, crop_file

    found = []
    for number, path in enumerate(files):
        for visit in range(visits):
            ours, reference = (
                crop_file(path.read_bytes(), Crop(size=SIZE), (0, visit, number), "RGB", fast=fast)[0].astype(float)
                for fast in (True, False)
            )
            found.append(10 * float(np.log10(255**2 / max(((ours - reference) ** 2).mean(), 1e-3))))
    return found


# --- turns ---------------------------------------------------------------------------------------------------------


def compare(folder: Path, names: list[str], arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Images per second and core of each contestant in each round."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    cores = sorted(os.sched_getaffinity(0))[: arguments.cores]
    command = [sys.executable, __file__, str(folder), "--seconds", str(arguments.seconds)]
    if not arguments.loader:
        command += ["--rounds", str(arguments.rounds), "--contestants", ",".join(names)]
        running = [
            subprocess.Popen(["taskset", "-c", str(core), *command], stdout=subprocess.PIPE, text=True, env=environment)
            for core in cores
        ]
        told = [json.loads(process.communicate()[0].splitlines()[-1]) for process in running]
        return {
            name: [statistics.mean(each) for each in zip(*(one[name] for one in told), strict=True)] for name in names
        }
    found: dict[str, list[float]] = {name: [] for name in names}
    pinned = ["taskset", "-c", ",".join(map(str, cores)), *command, "--loader", "--cores", str(len(cores))]
    for _ in range(arguments.rounds):
        for name in names:
            done = subprocess.run(
                [*pinned, "--contestants", name], capture_output=True, text=True, check=True, env=environment
            )
            found[name].append(float(done.stdout.split()[-1]) / len(cores))
    return found


def told(title: str, found: dict[str, list[float]]) -> dict[str, object]:
    print(title)
    ratios: dict[str, object] = {}
    for name, speeds in found.items():
        line = f"  {name:12} {statistics.median(speeds):8,.0f} images/s per core"
        for peer in ("pil", "tv"):
            if peer not in found:
                continue
            own = [one / other for one, other in zip(speeds, found[peer], strict=True)]
            ratios[f"{name} / {peer}"] = {"median": statistics.median(own), "least": min(own), "most": max(own)}
            line += f"   {statistics.median(own):5.2f} x {peer} ({min(own):.2f} to {max(own):.2f})"
        print(line)
    return {"images_per_second_and_core": found, "ratios": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("photos", type=Path)
    parser.add_argument("--seconds", type=float, default=5, help="measured per turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--loader", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--contestants", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contestants and arguments.loader:
        print(through_loader(arguments.contestants, arguments.photos, arguments.seconds, arguments.cores))
        return
    if arguments.contestants:
        names = arguments.contestants.split(",")
        print(json.dumps(taking_turns(names, arguments.photos, arguments.seconds, arguments.rounds)))
        return
    files = photographs(arguments.photos)
    peers = ["pil", "pil float", "tv", "ours"]
    results: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "large").mkdir()
        enlarge(files, Path(scratch) / "large")
        large = photographs(Path(scratch) / "large")
        plain, big = in_classes(files, Path(scratch) / "a"), in_classes(large, Path(scratch) / "b")
        pack = Path(scratch) / "pack"
        command = [sys.executable, "-m", "residual", "data", "pack", str(plain), str(pack), "--shorter", "256"]
        subprocess.run(command, check=True, capture_output=True)
        (plain / "pack").symlink_to(pack)
        for title, own, folder, names in (
            (f"{len(files)} photographs as they are", files, plain, [*peers, "ours packed"]),
            (f"{len(large)} photographs of about 2000x1500 pixels", large, big, peers),
        ):
            decibels = quality(own)
            results[title] = told(title, compare(folder, names, arguments)) | {"psnr": statistics.mean(decibels)}
            print(f"  quality      {statistics.mean(decibels):.1f} dB on average, {min(decibels):.1f} dB at least")
    if arguments.json:
        from residual.records import environment

        print(json.dumps(results | {"environment": environment()}, indent=2))


if __name__ == "__main__":
    main()
