"""The networks by name.  Any other legal depth follows the same rules: `describe("resnet74")`."""

import dataclasses
import difflib
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from residual.models.description import Description

IMAGENET_STAGES = {  # table 1; 200 is ResNet-152 with 16 more units at 28x28 ("Identity Mappings")
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}


def imagenet(depth: int) -> Description:
    """18 to 200 layers for photographs (table 1): basic blocks to 34, bottlenecks from 50, option B."""
    return Description(
        block="basic" if depth < 50 else "bottleneck",
        depths=IMAGENET_STAGES[depth],
        widths=(64, 128, 256, 512),
        stem="imagenet",
        stem_width=64,
        shortcut="B",
    )


def cifar(depth: int) -> Description:
    """6n + 2 layers for 32-pixel images (section 4.2): three stages of n basic blocks, option A."""
    n = repeats(depth, 6, 2, "a CIFAR network has 6n + 2 layers (section 4.2)")
    return Description(
        block="basic",
        depths=(n, n, n),
        widths=(16, 32, 64),
        stem="cifar",
        stem_width=16,
        shortcut="A",
        classes=10,
        image=32,
    )


def cifar_bottleneck(depth: int) -> Description:
    """9n + 2 layers, pre-activation ("Identity Mappings"): three stages of n bottlenecks."""
    n = repeats(depth, 9, 2, "a CIFAR bottleneck network has 9n + 2 layers")
    return replace(cifar(20), block="bottleneck", depths=(n, n, n), shortcut="B", order="full")


def wide(depth: int, factor: int) -> Description:
    """6n + 4 layers, `factor` times as wide (Zagoruyko and Komodakis 2016): pre-activation, projections."""
    n = repeats(depth, 6, 4, "a wide CIFAR network has 6n + 4 layers")
    widths = (16 * factor, 32 * factor, 64 * factor)
    return replace(cifar(20), depths=(n, n, n), widths=widths, shortcut="B", order="full")


def small(widths: tuple[int, ...], *, blocks: int, image: int) -> Description:
    """The trunks "small" of our detectors (residual/detect/catalog.py), as classifiers to begin with."""
    return Description(
        block="basic",
        depths=(blocks,) * len(widths),
        widths=widths,
        stem="imagenet",
        stem_width=32,
        shortcut="B",
        image=image,
    )


def repeats(depth: int, step: int, rest: int, rule: str) -> int:
    """n of depth = step * n + rest, or a refusal that names the neighbours."""
    n, remainder = divmod(depth - rest, step)
    if remainder or n < 1:
        lower = step * max(n, 1) + rest
        nearest = f"{lower} or {lower + step}" if n >= 1 else str(lower)
        raise ValueError(f"{rule}, so depth {depth} does not exist; nearest: {nearest}")
    return n


def plain(description: Description) -> Description:
    """The same layers without shortcuts."""
    return replace(description, shortcut="none")


def middle(description: Description) -> Description:
    """Stride in the 3x3 of a bottleneck, "v1.5": what torchvision and most of the world call ResNet-50."""
    return replace(description, stride_in="middle")


catalog: dict[str, Description] = {
    "resnet18": imagenet(18),
    "resnet34": imagenet(34),
    "resnet50": imagenet(50),
    "resnet101": imagenet(101),
    "resnet152": imagenet(152),
    "resnet50_v1_5": middle(imagenet(50)),
    "resnet101_v1_5": middle(imagenet(101)),
    "resnet152_v1_5": middle(imagenet(152)),
    "plain18": plain(imagenet(18)),
    "plain34": plain(imagenet(34)),
    "resnet20": cifar(20),
    "resnet32": cifar(32),
    "resnet44": cifar(44),
    "resnet56": cifar(56),
    "resnet110": cifar(110),
    "resnet1202": replace(cifar(1202), checkpoint=True),  # memory against time (benchmarks/memory_1202.py)
    "plain20": plain(cifar(20)),
    "plain32": plain(cifar(32)),
    "plain44": plain(cifar(44)),
    "plain56": plain(cifar(56)),
    "plain110": plain(cifar(110)),
    "preresnet110": replace(cifar(110), order="full"),
    "preresnet164": cifar_bottleneck(164),
    "preresnet1001": cifar_bottleneck(1001),
    "preresnet200": replace(middle(imagenet(200)), order="full"),
    "wide_resnet16_8": wide(16, 8),
    "wide_resnet28_10": wide(28, 10),
    "wide_resnet40_4": wide(40, 4),
    "wide_resnet50_2": replace(middle(imagenet(50)), inner=2.0),
    "wide_resnet101_2": replace(middle(imagenet(101)), inner=2.0),
    "small_c4": small((64, 128), blocks=2, image=96),
    "small_fpn": small((32, 64, 128, 256), blocks=1, image=256),
    "small_localizer": replace(small((16, 32, 64, 128), blocks=1, image=64), stem="cifar", stem_width=16),
}


def list_models() -> tuple[str, ...]:
    """The names in the catalog.  `describe` knows every other legal depth too."""
    return tuple(catalog)


def describe(name: str) -> Description:
    """The description of a named network: from the catalog, or of any depth that its rule allows.

    resnet74, plain26 (6n + 2) · preresnet38, preresnet29 (see `pre_activation`) · wide_resnet22_8 (6n + 4,
    eight times as wide) · wide_resnet50_3.  18, 34, 50, 101 and 152 layers are ImageNet's.
    Refuses a name it cannot read and a depth that does not exist, naming the nearest.
    """
    if name in catalog:
        return catalog[name]
    if found := re.fullmatch(r"(resnet|plain|preresnet)(\d{1,6})", name):
        family, depth = found[1], int(found[2])
        if family == "preresnet":
            return pre_activation(depth)
        known = imagenet(depth) if depth in (18, 34, 50, 101, 152) else cifar(depth)
        return plain(known) if family == "plain" else known
    if found := re.fullmatch(r"wide_resnet(\d{1,6})_(\d{1,3})", name):
        depth, factor = int(found[1]), int(found[2])
        if factor < 1:
            raise ValueError(f"{name!r} is {factor} times as wide as a ResNet; the factor must be at least 1")
        if depth in (50, 101, 152):
            return replace(middle(imagenet(depth)), inner=float(factor))
        return wide(depth, factor)
    if re.fullmatch(r"(?:resnet|plain)\d{1,6}_v1_5", name):
        raise ValueError(
            f"no network is called {name!r}: v1.5 strides in the 3x3 of a bottleneck, "
            "so there are resnet50_v1_5, resnet101_v1_5 and resnet152_v1_5"
        )
    near = difflib.get_close_matches(name, catalog, n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?  " if near else ""
    raise ValueError(f"no network is called {name!r}; {hint}`residual models` lists all {len(catalog)}")


def varied(description: Description, changes: Mapping[str, Any]) -> Description:
    """The description with some fields changed.  Refuses, as ValueError, a field that no network has."""
    known = [field.name for field in dataclasses.fields(description)]
    if unknown := sorted(changes.keys() - set(known)):
        raise ValueError(f"a network has no {unknown[0]!r}; what can be changed: {', '.join(known)}")
    return replace(description, **changes)


def pre_activation(depth: int) -> Description:
    """A CIFAR pre-activation net of any legal depth.

    6n + 2 layers are basic blocks and 9n + 2 bottlenecks; a depth that is both is basic to 110 layers, as the
    paper's 110 is, and bottlenecks above, as its 164 is.
    """
    basic, bottleneck = (depth - 2) % 6 == 0, (depth - 2) % 9 == 0
    if depth < 8 or not (basic or bottleneck):
        legal = [d for d in range(8, depth + 9) if (d - 2) % 6 == 0 or (d - 2) % 9 == 0]
        nearest = [d for d in legal if d < depth][-1:] + [d for d in legal if d > depth][:1]
        raise ValueError(
            "a pre-activation CIFAR network has 6n + 2 layers (basic blocks) or 9n + 2 (bottlenecks), "
            f"so depth {depth} does not exist; nearest: {' or '.join(map(str, nearest))}"
        )
    if basic and (depth <= 110 or not bottleneck):
        return replace(cifar(depth), order="full")
    return cifar_bottleneck(depth)
