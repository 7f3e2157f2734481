"""Does the weights doctor name planted faults, on photographs?  And how many images does it take?

    python benchmarks/doctor.py IMAGES [--train 2000] [--epochs 8] [--counts 32,64,128,256] [--draws 4] [--json]

IMAGES is a folder with train/ and val/, each with a folder per class, such as Imagenette.  Two narrow bottleneck
networks are trained on windows cut at random: one strides in the 3x3 and sees red first, standardised, resized by a
bilinear filter; the other strides in the first 1x1, pools over the edge, and sees blue first, less a mean, resized by
a bicubic filter.  Then each is claimed to be something else, one fault at a time, and examined with images of val.
Printed are, for every fault and number of images, in how many draws it was named, and it alone; and of the sound
claims, how many findings were false alarms.
"""

import argparse
import json
import random
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from residual.data.decode import Pixels, decode
from residual.data.transforms import Normalize, Preprocessing
from residual.evaluate.doctor import Claim, examine
from residual.models.description import Description
from residual.models.resnet import ResNet

SIDE, SHORTER, BATCH = 112, 128, 50
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
BLUE_FIRST = (103.939, 116.779, 123.68)
ONE, HALF, NOTHING = (1.0, 1.0, 1.0), (127.5, 127.5, 127.5), (0.0, 0.0, 0.0)

RED = Claim(
    model=Description(
        block="bottleneck", depths=(1, 2, 2, 1), widths=(16, 32, 64, 96), stem="imagenet", stem_width=32,
        stride_in="middle", classes=10, image=SIDE,
    ),
    preprocessing=Preprocessing(size=SIDE, resize=SHORTER, mean=MEAN, std=STD),
)  # fmt: skip
BLUE = Claim(
    model=replace(RED.model, stride_in="first", stem_pool="ceil"),
    preprocessing=Preprocessing(
        size=SIDE, resize=SHORTER, channels="BGR", interpolation="bicubic", mean=BLUE_FIRST, std=ONE
    ),
)


def network(claim: Claim, **changes: str) -> Claim:
    return replace(claim, model=replace(claim.model, **changes))


def images(claim: Claim, **changes: object) -> Claim:
    return replace(claim, preprocessing=replace(claim.preprocessing, **changes))


FAULTS: tuple[tuple[str, Claim, Claim, str], ...] = (  # what, the truth, the claim, the setting to be named
    ("3x3 claimed as first 1x1", RED, network(RED, stride_in="first"), "stride"),
    ("first 1x1 claimed as 3x3", BLUE, network(BLUE, stride_in="middle"), "stride"),
    ("RGB claimed as BGR", RED, images(RED, channels="BGR", mean=MEAN[::-1], std=STD[::-1]), "channels"),
    ("BGR claimed as RGB", BLUE, images(BLUE, channels="RGB", mean=BLUE_FIRST[::-1]), "channels"),
    ("mean missing", RED, images(RED, mean=NOTHING), "mean and scale"),
    ("mean turned round", RED, images(RED, mean=MEAN[::-1]), "mean and scale"),
    ("std missing", RED, images(RED, std=ONE), "mean and scale"),
    ("standardised claimed as -1..1", RED, images(RED, mean=HALF, std=HALF), "mean and scale"),
    ("0..255 claimed as standardised", BLUE, images(BLUE, mean=MEAN[::-1], std=STD[::-1]), "mean and scale"),
    ("padded claimed as ceil", RED, network(RED, stem_pool="ceil"), "stem pooling"),
    ("ceil claimed as padded", BLUE, network(BLUE, stem_pool="padded"), "stem pooling"),
    ("bilinear claimed as bicubic", RED, images(RED, interpolation="bicubic"), "resize filter"),
    ("bicubic claimed as bilinear", BLUE, images(BLUE, interpolation="bilinear"), "resize filter"),
)


def listed(folder: Path) -> tuple[list[Path], list[int]]:
    """Image files, with the number of their class."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    pairs = [(path, label) for label, one in enumerate(classes) for path in sorted(one.iterdir())]
    random.Random(0).shuffle(pairs)
    return [path for path, _ in pairs], [label for _, label in pairs]


def cut(picture: Image.Image, rng: np.random.Generator, interpolation: str) -> Pixels:
    """A window of 20 to 100 % of the area, as training sees it."""
    width, height = picture.size
    wide = high = min(width, height)
    for _ in range(10):
        area, shape = width * height * rng.uniform(0.2, 1), (4 / 3) ** rng.uniform(-1, 1)
        if max(round((area * shape) ** 0.5) / width, round((area / shape) ** 0.5) / height) <= 1:
            wide, high = round((area * shape) ** 0.5), round((area / shape) ** 0.5)
            break
    left, top = int(rng.integers(width - wide + 1)), int(rng.integers(height - high + 1))
    box = (left, top, left + wide, top + high)
    window = picture.resize((SIDE, SIDE), Image.Resampling[interpolation.upper()], box=box)
    return np.asarray(window)[:, :: -1 if rng.random() < 0.5 else 1]


def trained(claim: Claim, files: list[Path], labels: list[int], epochs: int) -> ResNet:
    """The claimed network after so many epochs."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model, normalize = ResNet(claim.model), Normalize(claim.preprocessing)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, nesterov=True)
    steps, step = epochs * (len(files) // BATCH), 0
    for _ in range(epochs):
        order = rng.permutation(len(files))
        for start in range(0, len(files) - BATCH + 1, BATCH):
            step += 1
            for group in optimizer.param_groups:
                group["lr"] = 0.1 * min(1, step / 40) * (1 - step / (steps + 1))
            some = order[start : start + BATCH]
            windows = []
            for place in some:
                with Image.open(files[place]) as picture:
                    windows.append(cut(picture.convert("RGB"), rng, claim.preprocessing.interpolation))
            answers = model(normalize(torch.from_numpy(np.stack(windows))))
            loss = nn.functional.cross_entropy(answers, torch.tensor([labels[place] for place in some]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--counts", default="32,64,128,256")
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--keep", type=Path, help="a folder for the trained networks, or with them")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    if not (asked.folder / "train").is_dir():
        raise SystemExit(f"there is no {asked.folder}/train; skipped")
    torch.set_num_threads(1)
    states = {}
    for name, claim in (("red", RED), ("blue", BLUE)):
        kept = None if asked.keep is None else asked.keep / f"{name}.pt"
        if kept is not None and kept.is_file():
            states[id(claim)] = torch.load(kept, weights_only=True)
            continue
        began = time.monotonic()
        files, labels = listed(asked.folder / "train")
        states[id(claim)] = trained(claim, files[: asked.train], labels[: asked.train], asked.epochs).state_dict()
        print(f"trained {name} in {time.monotonic() - began:.0f} s", flush=True)
        if kept is not None:
            torch.save(states[id(claim)], kept)
    counts = [int(count) for count in asked.counts.split(",")]
    files, labels = listed(asked.folder / "val")
    pictures: list[Pixels] = [decode(path.read_bytes()) for path in files[: asked.draws * max(counts)]]
    answers = torch.tensor(labels[: len(pictures)])
    rows = []
    for count in counts:
        draws = [slice(number * count, (number + 1) * count) for number in range(asked.draws)]
        for what, truth, claim, setting in FAULTS:
            named = []
            for draw in draws:
                found = examine(states[id(truth)], claim, pictures[draw])
                named.append({one.setting for one in found.findings if one.verdict == "faulty"} == {setting})
            rows.append({"fault": what, "images": count, "named": sum(named), "draws": len(named)})
            print(f"{count:4} images  {what:32} named in {sum(named)} of {len(named)} draws", flush=True)
        for what, claim in (("red", RED), ("blue", BLUE)):
            false, wrong = [], 0.0
            for draw in draws:
                found = examine(states[id(claim)], claim, pictures[draw], answers[draw])
                false += [f"{one.setting} {one.margin:.1f}" for one in found.findings if one.verdict == "faulty"]
                wrong += found.error[0] / len(draws) if found.error else 0.0
                left = [f"{one.setting} ({one.because})" for one in found.findings if one.verdict == "cannot tell"]
                print(f"{count:4} images  {what} as it is, open:", "; ".join(left))
            rows.append({"fault": None, "of": what, "images": count, "false": false, "draws": len(draws)})
            print(f"{count:4} images  {what} as it is: {wrong:.0f} % error, false alarms: {', '.join(false) or 'none'}")
    if asked.json:
        print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
