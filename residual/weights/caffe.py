"""The ResNets that the authors released for Caffe: ResNet-50, -101 and -152 as .caffemodel files.

They see BGR images of 0..255 less a mean image, stride in the first 1x1 of a bottleneck, and pool behind the stem
without a border, the last window over the edge.  BN is two layers: BatchNorm holds mean and variance times a factor
that it holds too, Scale multiplies and adds.  Only ResNet-50 has a bias, in its first convolution.

Source: the prototxt files of https://github.com/KaimingHe/deep-residual-networks, and the layers of BVLC/caffe.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from residual.data.transforms import Preprocessing
from residual.weights.architecture import catalog_name, count_batches, describe, fold_bias, fold_epsilon, shapes_of
from residual.weights.arrays import MAX_DIMENSIONS
from residual.weights.card import Card
from residual.weights.files import BadWeights
from residual.weights.imagenet import classes, mean_subtracted
from residual.weights.protobuf import MEAN_FILE

NAME = "caffe"
SOURCE = "https://github.com/KaimingHe/deep-residual-networks"
MEAN = (103.939, 116.779, 123.68)  # blue, green, red: the mean image, averaged over its pixels
EPSILON = 1e-5  # Caffe's, where the file does not say
BRANCHES = {  # theirs -> our convolution and the norm behind it
    "1": ("shortcut.conv", "shortcut.norm"),
    "2a": ("conv1", "norm1"),
    "2b": ("conv2", "norm2"),
    "2c": ("conv3", "norm3"),
}


def recognises(tensors: Mapping[str, object]) -> bool:
    """Whether these are the layers of a released network, or of one that was fine-tuned from it."""
    return {"conv1/0", "bn_conv1/0", "scale_conv1/0", "res2a_branch2c/0", "scale5a_branch1/0"} <= tensors.keys()


def convert(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Card]:
    """Our tensors and their card from the arrays of `protobuf.read`.

    Refuses layers that the released networks do not have, and settings that make another network of them.
    """
    net = _Net.of(tensors)
    made = net.convolution("conv1", "conv1", "stem.conv", "stem.norm")
    for name in [name for name in net.blobs if name.startswith("res")]:
        if found := place(name):
            layer = net.convolution(name, name.removeprefix("res"), *found)
            if layer.keys() & made.keys():
                raise BadWeights(f"layer {name!r} stands for a block of which there is another")
            made |= layer
    made |= net.classifier()
    net.refuse_others()
    count_batches(made)
    stride_in, stated = net.stride_in()
    net.check_pooling()
    description = describe(shapes_of(made), stride_in=stride_in, stem_pool="ceil")
    mean = tensors.get(MEAN_FILE)
    assumed = ["" if stated else "stride in the first 1x1", "" if mean is not None else "one mean for each channel"]
    card = Card(
        name=catalog_name(description),
        model=description,
        classes=classes(description.classes),
        preprocessing=preprocessing(mean),
        history={
            "layout": NAME,
            "source": SOURCE,
            "assumed": ", ".join(filter(None, [*assumed, "images resized to 256, and the usual order of the classes"])),
        },
    )
    return made, card


def place(name: str) -> tuple[str, str] | None:
    """Our convolution and norm for res4b12_branch2a and its like; None if it is no such name.

    The blocks of a stage are a, b, c, ... in ResNet-50, and a, b1, b2, ... where there would be too many letters.
    """
    found = re.fullmatch(r"res([2-5])([a-z]|b[1-9]\d{0,2})_branch(1|2[abc])", name, re.ASCII)
    if not found:
        return None
    stage, block, branch = found.groups()
    number = int(block[1:]) if len(block) > 1 else ord(block) - ord("a")
    conv, norm = BRANCHES[branch]
    return f"stages.{int(stage) - 2}.{number}.{conv}", f"stages.{int(stage) - 2}.{number}.{norm}"


def preprocessing(mean: Tensor | None) -> Preprocessing:
    """224 pixels from the centre of 256, BGR, 0..255 less the mean image, or less its averages.

    mean: (3, H, W) or (1, 3, H, W), blue first; of a larger one, the centre.
    """
    plain = mean_subtracted(MEAN)
    if mean is None:
        return plain
    image = mean[0] if mean.ndim == 4 and len(mean) == 1 else mean
    if image.ndim != 3 or len(image) != 3 or min(image.shape[1:]) < plain.size or not image.isfinite().all():
        raise BadWeights(
            f"the mean image {MEAN_FILE} beside it has the shape {tuple(mean.shape)}, or numbers that are not finite; "
            f"it should be (3, {plain.size}, {plain.size}): take it away to subtract one number for each channel"
        )
    top, left = ((side - plain.size) // 2 for side in image.shape[1:])
    centre = image[:, top : top + plain.size, left : left + plain.size]
    return replace(plain, mean=tuple(centre.flatten().tolist()))


@dataclass(frozen=True)
class _Net:
    """The layers of a file, and which of them were used."""

    blobs: dict[str, list[Tensor]]
    settings: dict[str, dict[str, Tensor]]
    used: set[str]

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "_Net":
        net = cls({}, {}, set())
        for key in sorted(tensors):  # a layer has a few blobs: their last digit orders them
            name, _, what = key.rpartition("/")
            tensor = tensors[key]
            if what.isdecimal():
                net.blobs.setdefault(name, []).append(tensor)
            elif name:
                if not 1 <= tensor.numel() <= MAX_DIMENSIONS or tensor.is_floating_point() != (what == "eps"):
                    raise BadWeights(f"the setting {key[:200]!r} is none that Caffe has")
                net.settings.setdefault(name, {})[what] = tensor.flatten()
        return net

    def weights(self, name: str, *ranks: int) -> list[Tensor]:
        """A layer's blobs with so many axes.  Before 2015 every blob had four, the first ones of length 1."""
        self.used.add(name)
        found = self.blobs.get(name, [])
        if len(found) != len(ranks):
            raise BadWeights(f"layer {name!r} has {len(found)} blobs of weights, it should have {len(ranks)}")
        for blob, rank in zip(found, ranks, strict=True):
            more = blob.ndim - rank
            if more < 0 or tuple(blob.shape[:more]) != (1,) * more:
                raise BadWeights(
                    f"layer {name!r} has weights of shape {tuple(blob.shape)}, which should have {rank} axes"
                )
        return [blob.reshape(blob.shape[blob.ndim - rank :]) for blob, rank in zip(found, ranks, strict=True)]

    def convolution(self, name: str, rest: str, conv: str, norm: str) -> dict[str, Tensor]:
        """A convolution with its BatchNorm and Scale layers, under our names."""
        has_bias = len(self.blobs.get(name, [])) > 1
        kernel, *bias = self.weights(name, 4, 1) if has_bias else self.weights(name, 4)
        made = {f"{conv}.weight": kernel}
        theirs = f"bn_{rest}" if rest == "conv1" else f"bn{rest}"
        mean, variance, factor = self.weights(theirs, 1, 1, 1)
        if factor.shape != (1,):
            raise BadWeights(
                f"layer {theirs!r} has a factor of shape {tuple(factor.shape)}, which should be one number"
            )
        scale = 0.0 if factor == 0 else 1 / factor.double()  # as Caffe: 0 says that nothing was gathered yet
        made[f"{norm}.running_mean"] = (mean.double() * scale).float()
        made[f"{norm}.running_var"] = (variance.double() * scale).float()
        made[f"{norm}.weight"], made[f"{norm}.bias"] = self.weights(theirs.replace("bn", "scale", 1), 1, 1)
        epsilon = self.settings.get(theirs, {}).get("eps", torch.tensor([EPSILON]))[-1].item()
        fold_epsilon(made, norm, round(epsilon, 9))  # a file holds it in float32: rounded, it is 1e-5 again
        if bias:
            made[f"{conv}.bias"] = bias[0]
            fold_bias(made, conv, norm)
        return made

    def classifier(self) -> dict[str, Tensor]:
        """The one fully connected layer: fc1000, or whatever a fine-tuned network calls it."""
        names = [name for name in self.blobs if name.startswith("fc")]
        if len(names) != 1:
            raise BadWeights(
                f"it has {len(names)} layers whose name begins with 'fc'; a classifier is the only one, and without it "
                "there is no network that answers"
            )
        weight, bias = self.weights(names[0], 2, 1)
        return {"classifier.weight": weight, "classifier.bias": bias}

    def refuse_others(self) -> None:
        others = sorted(self.blobs.keys() - self.used)
        if others:
            raise BadWeights(
                f"{len(others)} of its layers are not of the released ResNet-50, -101 or -152, the first is "
                f"{others[0]!r}; only these, and networks fine-tuned from them, are converted"
            )

    def stride_in(self) -> tuple[Literal["first", "middle"], bool]:
        """Where the bottlenecks stride, and whether the file says so: a file may leave out all settings."""
        convolutions = [name for name in self.blobs if name == "conv1" or place(name)]
        if not any("stride" in self.settings.get(name, {}) for name in convolutions):
            return "first", False
        for name in convolutions:
            pad, dilation = self.setting(name, "pad", 0), self.setting(name, "dilation", 1)
            if pad != {self.blobs[name][0].shape[-1] // 2} or dilation != {1}:
                raise BadWeights(
                    f"layer {name!r} has a border of {pad} and a dilation of {dilation}; a ResNet's convolutions keep "
                    "the size of what they see, without dilation"
                )
        strides = {name: self.setting(name, "stride", 1) for name in convolutions}
        places: dict[Literal["first", "middle"], str] = {"first": "2a", "middle": "2b"}
        for where, branch in places.items():
            two = re.compile(rf"conv1|res[3-5]a_branch(1|{branch})")
            if all(stride == {2 if two.fullmatch(name) else 1} for name, stride in strides.items()):
                return where, True
        raise BadWeights("its convolutions stride at other places than a ResNet's, so it is another network")

    def check_pooling(self) -> None:
        """The pool behind the stem, as far as the file describes it."""
        if "pool1" in self.settings:
            expected = {"kind": 0, "kernel": 3, "stride": 2, "pad": 0, "rounding": 0}  # maximum; rounded up
            defaults = {"kind": 0, "kernel": 0, "stride": 1, "pad": 0, "rounding": 0}
            for what, value in expected.items():
                if (found := self.setting("pool1", what, defaults[what])) != {value}:
                    raise BadWeights(f"layer 'pool1' has {what} {sorted(found)}, the released networks have {value}")

    def setting(self, name: str, what: str, default: int) -> set[int]:
        """The values of a setting, one for each axis or one for all."""
        found = self.settings.get(name, {}).get(what)
        return {default} if found is None else set(found.tolist())
