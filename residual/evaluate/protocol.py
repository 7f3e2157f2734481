"""How a network is tested: which views of an image it sees, and how their scores become one.

    one-crop     the central square                                              (table 6, figure 4)
    ten-crop     four corners and the centre, and their mirror images            (tables 2 and 3)
    multi-scale  the whole image at several scales, fully convolutional          (table 4)

A protocol is frozen data and travels with every number that was measured under it.
"""

from dataclasses import dataclass, replace
from typing import Literal, get_args

from residual.data.decode import View
from residual.data.transforms import Preprocessing

Name = Literal["one-crop", "ten-crop", "multi-scale"]
Average = Literal["probabilities", "logits"]

SCALES = (224, 256, 384, 480, 640)  # section 3.4, for networks of 224 pixels
MOST = 8192  # pixels, as in the cards of weights


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """One test protocol, told completely.

    size: side of a crop, pixels.  multi-scale cuts nothing.
    resize: shorter side before the crops; None squeezes the image to size x size, whatever its shape.
    corners: ten-crop's are those of the central square of `resize` pixels, or of the whole resized "image", as
        fb.resnet.torch takes them.
    pad: where the image is as large as the network sees, ten-crop shifts it by so many pixels over a border of
        zeros, as training does (section 4.2); otherwise 0.
    scales: shorter sides of multi-scale.
    flips: every view is also seen mirrored.
    average: over views (and networks) are averaged the probabilities, as the paper does, or the logits: classes
        then stand in the order of fb.resnet.torch's sums.
    positions: multi-scale applies the classifier at every position of the last feature map.  Averaging the logits
        over positions is averaging the features first; the probabilities are those of each position by itself.
        The paper says neither this nor whether it flips: both are our choice.
    antialias: whether shrinking looks at every pixel (Pillow does) or at the nearest ones only.
    precision: of the convolutions.
    """

    name: Name
    size: int
    resize: int | None = None
    corners: Literal["square", "image"] = "square"
    pad: int = 0
    scales: tuple[int, ...] = ()
    flips: bool = False
    average: Average = "probabilities"
    positions: Average = "logits"
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    antialias: bool = True
    precision: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        choices = {
            "name": get_args(Name),
            "corners": ("square", "image"),
            "average": get_args(Average),
            "positions": get_args(Average),
            "interpolation": ("bilinear", "bicubic"),
            "precision": ("float32", "bfloat16"),
        }
        for field, allowed in choices.items():
            value = getattr(self, field)
            if value not in allowed:
                what = "protocol" if field == "name" else field
                raise ValueError(f"there is no {what} {value!r}; choose one of: {', '.join(allowed)}")
        sides = (self.size, *self.scales, *(() if self.resize is None else (self.resize,)))
        if min(sides) < 1 or max(sides) > MOST:
            raise ValueError(f"a protocol asks for sides of {min(sides)} to {max(sides)} pixels; they are 1 to {MOST}")
        if self.resize is not None and self.resize < self.size:
            raise ValueError(
                f"crops of {self.size} pixels cannot be cut from images whose shorter side is {self.resize}; resize "
                "to at least the size of a crop"
            )
        self._refuse_contradictions()

    def _refuse_contradictions(self) -> None:
        if bool(self.scales) != (self.name == "multi-scale"):
            raise ValueError(
                f"protocol {self.name} with scales {self.scales}: multi-scale has at least one, the others have none"
            )
        if self.pad < 0 or (self.pad and self.name != "ten-crop"):
            raise ValueError(f"pad is {self.pad}, but only ten-crop shifts images, by 1 or more; set it to 0")
        if self.positions != "logits" and self.name != "multi-scale":
            raise ValueError(f"{self.name} has one position, so there is nothing to average over positions")
        if self.corners == "image" and (self.name != "ten-crop" or self.resize is None):
            raise ValueError(
                'corners "image" are those of ten-crop where the image keeps its shape: it needs protocol ten-crop '
                "and a network that resizes the shorter side"
            )
        room = self.resize is not None and (self.resize > self.size or self.corners == "image")
        if self.name == "ten-crop" and room == bool(self.pad):
            raise ValueError(
                f"ten-crop of {self.size} pixels from images of {self.resize or self.size} with a border of "
                f"{self.pad}: corners need either larger images or a border (pad), and not both"
            )


def one_crop(preprocessing: Preprocessing) -> Protocol:
    """The central view that the network was made for."""
    return Protocol(
        name="one-crop",
        size=preprocessing.size,
        resize=preprocessing.resize,
        interpolation=preprocessing.interpolation,
    )


def ten_crop(once: Protocol) -> Protocol:
    """The paper's, of the crop of `once`: corners of the central square, probabilities averaged.

    Of images without room they are shifts by an eighth of the side, CIFAR's 4 of 32.
    """
    room = once.resize is not None and once.resize > once.size
    return replace(once, name="ten-crop", pad=0 if room else max(1, once.size // 8), flips=True)


def multi_scale(once: Protocol) -> Protocol:
    """The paper's five scales, in proportion where the crop of `once` is not of 224 pixels; with flips."""
    scales = tuple(round(side * once.size / SCALES[0]) for side in SCALES)
    return replace(once, name="multi-scale", scales=scales, flips=True)


def at_size(once: Protocol, size: int | None = None, crop: float | None = None) -> Protocol:
    """One crop, larger or smaller than the network was made for (Touvron et al. 2019, "FixRes").

    size: of the crop, pixels.  crop: its share of the shorter side, 0.875 for 224 of 256; left out, it stays.
    """
    assert once.name == "one-crop", once
    if crop is not None and not 0 < crop <= 1:
        raise ValueError(f"a crop takes a share of the shorter side above 0 and at most 1, not {crop}")
    side = once.size if size is None else size
    if crop is None and once.resize is not None:
        crop = once.size / once.resize
    return replace(once, size=side, resize=None if crop is None else max(side, round(side / crop)))


def single(protocol: Protocol) -> Protocol:
    """The one crop that a protocol begins with."""
    return replace(
        protocol, name="one-crop", corners="square", pad=0, scales=(), flips=False, average="probabilities",
        positions="logits",
    )  # fmt: skip


def words(protocol: Protocol) -> str:
    """A protocol in one line."""
    size, resize = protocol.size, protocol.resize
    match protocol.name:
        case "one-crop" if resize is None:
            views = f"the whole image as {size} x {size} pixels"
        case "one-crop":
            views = f"one crop of {size} pixels from a shorter side of {resize}"
        case "ten-crop" if protocol.pad:
            views = f"five shifts by {protocol.pad} of {size} pixels"
        case "ten-crop":
            where = "whole image" if protocol.corners == "image" else "central square"
            views = f"five crops of {size} pixels from the {where} with a shorter side of {resize}"
        case "multi-scale":
            views = f"whole images at {', '.join(map(str, protocol.scales))} pixels"
    told = [views]
    if protocol.flips:
        told.append("each also mirrored")
    if protocol.flips or protocol.name != "one-crop":
        told.append(f"{protocol.average} averaged")
    if protocol.name == "multi-scale":
        told.append(f"{protocol.positions} over positions")
    told.append(protocol.interpolation if protocol.antialias else f"{protocol.interpolation} without antialiasing")
    return ", ".join(told + ([protocol.precision] if protocol.precision != "float32" else []))


def keeps_square(protocol: Protocol, view: View) -> bool:
    """Whether squares decoded by `view` hold all that is looked at, so that whole images are not needed."""
    return (
        protocol.name != "multi-scale"
        and protocol.corners == "square"
        and (protocol.resize, protocol.resize or protocol.size) == (view.resize, view.size)
        and (protocol.interpolation, protocol.antialias) == (view.interpolation, True)
    )
