"""ResNets as Detectron and Detectron2 pickle them (R-50.pkl, R-101.pkl): trunks for detection, made from classifiers.

Two dialects.  Detectron's names are Caffe2's (res2_0_branch2a_w); they hold the networks of MSRA, of which Detectron
folds each BN into a factor and a shift, and Detectron2 does not.  Detectron2's own names (res2.0.conv1.weight) come
from its converter of torchvision's files.  Many files have lost their classifier, and cannot classify: they are
refused, in words that say so.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from residual.models.description import Description
from residual.weights.architecture import catalog_name, check_shapes, count_batches, describe, fixed_norm, shapes_of
from residual.weights.card import Card
from residual.weights.files import BadWeights
from residual.weights.imagenet import TORCHVISION, classes, mean_subtracted

NAME = "detectron"
SOURCE = "https://github.com/facebookresearch/detectron2"
MSRA = mean_subtracted((103.53, 116.28, 123.675))  # Detectron2's PIXEL_MEAN

FIELDS = {  # of Caffe2's norms
    "s": "weight",
    "gamma": "weight",
    "b": "bias",
    "beta": "bias",
    "rm": "running_mean",
    "running_mean": "running_mean",
    "riv": "running_var",
    "running_var": "running_var",
}
BRANCHES = {"1": "shortcut", "2a": "1", "2b": "2", "2c": "3"}
CLASSIFIER = r"(?:fc1000|pred|linear|stem\.fc|stem\.linear)[._](w|b|weight|bias)"
CAFFE2 = r"res([2-5])_(\d{1,3})_branch(1|2a|2b|2c)_"
OWN = r"res([2-5])\.(\d{1,3})\.(conv[123]|shortcut)\."
FIELD = r"(weight|bias|running_mean|running_var|num_batches_tracked)"


def recognises(tensors: Mapping[str, object]) -> bool:
    """Whether these are names of Detectron's or Detectron2's, of a trunk alone or within a detector."""
    return any(re.search(r"(^|\.)res2([._])0\2(branch2a_w|conv1\.weight)$", name) for name in tensors)


def convert(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Card]:
    """Our tensors and their card from theirs.  Refuses a trunk without its classifier."""
    made: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith("_momentum"):  # of the training that Detectron saved with its weights
            continue
        ours = rename(name)
        if ours is None:
            raise BadWeights(
                f"its tensor {name[:200]!r} {tuple(tensor.shape)} is not of a ResNet that classifies images; "
                "detectors, and trunks with group normalisation, are not converted"
            )
        if ours in made:
            raise BadWeights(f"two of its tensors have one meaning, the second is {name[:200]!r}")
        made[ours] = tensor
    caffe2 = "conv1_w" in tensors
    for norm in [name.removesuffix(".weight") for name in made if re.search(r"norm\d?\.weight$", name)]:
        if f"{norm}.running_mean" not in made and f"{norm}.bias" in made:
            folded = fixed_norm(made[f"{norm}.weight"], made[f"{norm}.bias"])
            made |= {f"{norm}.{field}": tensor for field, tensor in folded.items()}
    description = described(made, caffe2)
    count_batches(made)
    check_shapes(shapes_of(made), description)
    msra = "MSRA's networks for Caffe: BGR images, stride in the first 1x1, pooling over the edge"
    facebook = "torchvision's networks: RGB images, stride in the 3x3"
    card = Card(
        name=catalog_name(description),
        model=description,
        classes=classes(description.classes),
        preprocessing=MSRA if caffe2 else TORCHVISION,
        history={
            "layout": NAME,
            "source": SOURCE,
            "assumed": f"by its names it was made from {msra if caffe2 else facebook}; the file does not tell",
        },
    )
    return made, card


def described(made: Mapping[str, Tensor], caffe2: bool) -> Description:
    """The network, of whose tensors under our names there may be no classifier: then it is refused."""
    shapes = shapes_of(made)
    lacking = "classifier.weight" not in shapes
    if lacking:
        shapes["classifier.weight"] = (1000, 1)  # so that the rest can be named
    description = describe(shapes, stride_in="first" if caffe2 else "middle", stem_pool="ceil" if caffe2 else "padded")
    if lacking:
        raise BadWeights(
            f"it is the trunk of a {catalog_name(description)}: {len(made)} tensors, without the classifier that would "
            "name its features; take the file that it was made from, its authors' .caffemodel or torchvision's"
        )
    return description


def rename(name: str) -> str | None:
    """Our name for one of theirs; None where a ResNet has nothing like it."""
    if found := re.fullmatch(CLASSIFIER, name, re.ASCII):
        return "classifier.weight" if found[1].startswith("w") else "classifier.bias"
    if found := re.fullmatch(r"(?:conv1_|stem\.conv1\.)(w|b|weight|bias)", name, re.ASCII):
        return "stem.conv.weight" if found[1].startswith("w") else "stem.conv.bias"
    if found := re.fullmatch(rf"stem\.conv1\.norm\.{FIELD}", name, re.ASCII):
        return f"stem.norm.{found[1]}"
    if (found := re.fullmatch(r"res_conv1_bn_(\w+)", name, re.ASCII)) and found[1] in FIELDS:
        return f"stem.norm.{FIELDS[found[1]]}"
    if found := re.fullmatch(rf"{CAFFE2}(?:w|bn_(\w+))", name, re.ASCII):
        stage, block, branch, field = found.groups()
        if field is None or field in FIELDS:
            return _in_block(stage, block, BRANCHES[branch], None if field is None else FIELDS[field])
    if found := re.fullmatch(rf"{OWN}(?:weight|norm\.{FIELD})", name, re.ASCII):
        stage, block, branch, field = found.groups()
        return _in_block(stage, block, branch.removeprefix("conv"), field)
    return None


def _in_block(stage: str, block: str, branch: str, field: str | None) -> str:
    """A convolution's weight, or a field of the norm behind it."""
    part = "conv.weight" if field is None else f"norm.{field}"
    first, _, rest = part.partition(".")
    inside = f"shortcut.{part}" if branch == "shortcut" else f"{first}{branch}.{rest}"
    return f"stages.{int(stage) - 2}.{int(block)}.{inside}"
