"""From stored bytes to what a network sees: normalise, and in training crop, flip and mix.

Shapes: B images, H x W pixels, C channels.  Pixels are uint8 (B, H, W, C); a network gets float32 (B, C, H, W)
in channels-last memory.  A whole batch is one tensor operation, on whatever device the pixels are.

Randomness is a hash of (seed, epoch, image index, draw): no generator, no state, the same on every device,
for any number of workers, before and after a resume.
"""

from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from residual.data.crop import Crop, Interpolation
from residual.data.decode import View, fit

IMAGENET_MEAN = (123.675, 116.28, 103.53)  # 255 x (0.485, 0.456, 0.406), red green blue
IMAGENET_STD = (58.395, 57.12, 57.375)  # 255 x (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """What a network expects of an image.  Travels inside every file of weights (law 1).

    size: side of the square the network sees, pixels.
    resize: shorter side after resizing, before the central crop; None resizes to size x size when it differs.
    mean, std: subtracted, then divided by; in pixel units 0..255.  One number per channel, or one per channel
        and pixel (channel, row, column), which is section 4.2's "per-pixel mean subtracted".
    """

    size: int
    resize: int | None = None
    channels: Literal["RGB", "BGR", "L"] = "RGB"
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (255.0, 255.0, 255.0)

    def __post_init__(self) -> None:
        count = 1 if self.channels == "L" else 3
        per_pixel = count * self.size * self.size
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (count, per_pixel):
                raise ValueError(
                    f"{name} has {len(values)} numbers; {self.channels} images of {self.size} pixels take "
                    f"{count} (one per channel) or {per_pixel} (one per channel and pixel)"
                )
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive, its smallest is {min(self.std)}")


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How a training image is varied.  Every draw is a pure function of seed, visit and image; 0 and "none" are off.

    crop: "pad" shifts by up to `pad` pixels over a border of zeros (section 4.2); "resized" cuts a random
        area of at least `least_area` with a shape between 3/4 and 4/3 and resizes it (Szegedy et al. 2014);
        "scaled" resizes the shorter side to a length drawn uniformly from `shorter`, pixels, and cuts a random
        square (section 3.4).  Of files on disk, "resized" and "scaled" cut the file as it is, by `interpolation`.
    size: side of the training images where it is not that of the network (Touvron et al. 2019).
    policy: "trivialaugment", one drawn operation of drawn strength (Mueller & Hutter 2021, its wide ranges);
        "randaugment", `operations` of them, each applied half of the time, of strength about `magnitude` of 10,
        with deviation `magnitude_std` (Cubuk et al. 2020; ranges as in Wightman et al. 2021).
    jitter: brightness, contrast and saturation, in random order, each by a factor of 1 - jitter to 1 + jitter.
    lighting: deviation of the noise along the principal components of ImageNet's colours (Krizhevsky et al. 2012).
    erase: probability of a random rectangle of the mean colour (Zhong et al. 2017).
    mixup, cutmix: the Beta parameter; where both are on, each batch takes one of them (Zhang 2017, Yun 2019).
    repeats: how many times in a row an image comes, varied anew each time (Hoffer et al. 2019).
    """

    crop: Literal["none", "pad", "resized", "scaled"] = "pad"
    pad: int = 4
    flip: bool = True
    least_area: float = 0.35
    shorter: tuple[int, int] = (256, 480)
    interpolation: Interpolation = "bilinear"
    size: int | None = None
    policy: Literal["none", "trivialaugment", "randaugment"] = "none"
    operations: int = 2
    magnitude: float = 9.0
    magnitude_std: float = 0.5
    jitter: float = 0.0
    lighting: float = 0.0
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    repeats: int = 1

    def __post_init__(self) -> None:
        if self.pad < 0 or not 0 < self.least_area <= 1:
            raise ValueError(f"pad ({self.pad}) is at least 0, least_area ({self.least_area}) above 0 and at most 1")
        if min(self.mixup, self.cutmix) < 0:
            raise ValueError(f"mixup ({self.mixup}) and cutmix ({self.cutmix}) are at least 0, which is off")
        least, most = self.shorter
        if not 1 <= least <= most:
            raise ValueError(f"shorter goes from a length to a greater one, in pixels; {least} to {most} does not")
        if min(self.repeats, self.operations) < 1 or (self.size is not None and self.size < 1):
            raise ValueError(
                f"repeats ({self.repeats}), operations ({self.operations}) and size ({self.size}) are at least 1"
            )
        if not 0 <= self.jitter <= 1 or not 0 <= self.erase <= 1:
            raise ValueError(f"jitter ({self.jitter}) and erase ({self.erase}) go from 0, which is off, to 1")
        if min(self.lighting, self.magnitude, self.magnitude_std) < 0 or self.magnitude > 10:
            raise ValueError(
                f"lighting ({self.lighting}) and magnitude_std ({self.magnitude_std}) are at least 0, magnitude "
                f"({self.magnitude}) is from 0 to 10"
            )

    @property
    def cuts(self) -> bool:
        """Whether files on disk are cut by what decodes them, into windows of the right size and side."""
        return self.crop in ("resized", "scaled")

    @property
    def recolours(self) -> bool:
        """Whether more than the place of a pixel changes."""
        return self.policy != "none" or self.jitter > 0 or self.lighting > 0

    def window(self, size: int) -> Crop:
        """How a window of size x size pixels is cut from a file."""
        assert self.crop == "resized" or self.crop == "scaled"
        return Crop(
            size=size,
            kind=self.crop,
            least_area=self.least_area,
            shorter=self.shorter,
            flip=self.flip,
            interpolation=self.interpolation,
        )

    def check_size(self, size: int) -> None:
        """Refuse a side of the training images that this cannot give."""
        if self.crop == "scaled" and self.shorter[0] < size:
            raise ValueError(
                f"windows of {size} pixels cannot be cut from images whose shorter side is {self.shorter[0]} pixels; "
                "raise `shorter` or lower the size"
            )


# --- randomness --------------------------------------------------------------------------------------------

_GOLDEN = 0x9E3779B97F4A7C15


def _signed(value: int) -> int:
    value &= 0xFFFF_FFFF_FFFF_FFFF
    return value - (1 << 64) if value >> 63 else value


_FIRST, _SECOND = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


def _hash(words: Tensor) -> Tensor:
    """The finaliser of splitmix64 (Steele et al. 2014), on int64 with wrap-around."""
    words = (words ^ ((words >> 30) & 0x3_FFFF_FFFF)) * _FIRST
    words = (words ^ ((words >> 27) & 0x1F_FFFF_FFFF)) * _SECOND
    return words ^ ((words >> 31) & 0x1_FFFF_FFFF)


def key(*numbers: int) -> int:
    """One signed 64-bit number from several, each of which changes all of it."""
    state = torch.zeros((), dtype=torch.int64)
    for number in numbers:
        state = _hash(state + _signed((number + 1) * _GOLDEN))
    return int(state)


def uniform(seed: int, epochs: Tensor, indices: Tensor, draw: int) -> Tensor:
    """Float32 in [0, 1), one per image: a pure function of its four arguments.

    epochs, indices: int64 of one shape.  draw: which of an image's random numbers this is.
    """
    words = _hash(_hash(indices * _signed(_GOLDEN) + key(seed, draw)) + epochs * _signed(_GOLDEN))
    return ((words >> 40) & 0xFF_FFFF).to(torch.float32) / 2**24


def permutation(count: int, seed: int, epoch: int) -> Tensor:
    """The order of `count` images in one epoch: (count,) int64."""
    return torch.argsort(_hash(torch.arange(count) * _signed(_GOLDEN) + key(seed, epoch, -1)), stable=True)


# --- one image ---------------------------------------------------------------------------------------------


def view(preprocessing: Preprocessing) -> View:
    """How an image is decoded for a network that expects this: the square of which `prepare` takes the centre."""
    return View(
        mode="L" if preprocessing.channels == "L" else "RGB",
        size=preprocessing.resize or preprocessing.size,
        resize=preprocessing.resize,
        interpolation=preprocessing.interpolation,
    )


def prepare(image: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Resize one decoded image (H, W, C) and cut its centre: uint8 (size, size, C), still RGB or grey.

    Training, evaluation and prediction see the same bytes: a training set keeps the square of `resize` pixels, and
    the centre of that square is what is evaluated.
    """
    return np.ascontiguousarray(centre(fit(image, view(preprocessing))[None], preprocessing.size)[0])


Pictures = TypeVar("Pictures", NDArray[np.uint8], Tensor)


def centre(images: Pictures, size: int) -> Pictures:
    """The central size x size pixels: (B, H, W, C) -> (B, size, size, C)."""
    top, left = ((side - size) // 2 for side in images.shape[1:3])
    return images[:, top : top + size, left : left + size]


# --- whole batches -----------------------------------------------------------------------------------------


class Normalize:
    """(pixels - mean) / std for one description, with the constants kept on the device."""

    def __init__(self, preprocessing: Preprocessing, device: torch.device | str = "cpu") -> None:
        self.preprocessing = preprocessing
        channels = 1 if preprocessing.channels == "L" else 3

        def constant(values: tuple[float, ...]) -> Tensor:
            table = torch.tensor(values, dtype=torch.float32)
            if len(values) == channels:
                return table.to(device)
            return table.view(channels, preprocessing.size, preprocessing.size).permute(1, 2, 0).to(device)

        self.mean, self.inverse_std = constant(preprocessing.mean), 1 / constant(preprocessing.std)
        self.colour = self.mean.reshape(-1, channels).mean(0)  # (C,) in the order of the pixels
        if preprocessing.channels == "BGR":
            self.colour = self.colour.flip(0)

    def check_size(self, size: int) -> None:
        """Refuse images of another side where there is a mean for every pixel."""
        if self.mean.ndim > 1 and size != self.preprocessing.size:
            raise ValueError(
                f"the mean of every pixel is for images of {self.preprocessing.size} pixels, and training on {size} "
                "asks for others; take a mean per channel, or train at the network's size"
            )

    def __call__(self, pixels: Tensor) -> Tensor:
        """The centre of (B, H, W, C) uint8 -> (B, C, size, size) float32, channels-last."""
        return self.floats(centre(pixels, self.preprocessing.size)).permute(0, 3, 1, 2)

    def floats(self, pixels: Tensor) -> Tensor:
        """(B, H, W, C) uint8, or float in the same units -> the same shape in float32, normalised."""
        if self.preprocessing.channels == "BGR":
            pixels = pixels.flip(-1)
        return (pixels.to(torch.float32) - self.mean) * self.inverse_std


def crop_and_flip(
    images: Tensor, augmentation: Augmentation, seed: int, epochs: Tensor, indices: Tensor, size: int
) -> Tensor:
    """Cut one random size x size window from each image and mirror half of them: one gather.

    images: (B, H, W, C) float, normalised, so a border of zeros is a border of the mean colour.
    epochs, indices: (B,) int64, on the device of the images.  Returns (B, C, size, size), channels-last.
    """
    count, height, width, _ = images.shape
    if augmentation.cuts:
        return _resized_crop(images, augmentation, seed, epochs, indices, size)
    pad = augmentation.pad if augmentation.crop == "pad" else 0
    if pad:
        images = functional.pad(images, (0, 0, pad, pad, pad, pad))
    room_down, room_right = height + 2 * pad - size, width + 2 * pad - size
    if augmentation.crop == "pad":
        top = (uniform(seed, epochs, indices, 0) * (room_down + 1)).long()
        left = (uniform(seed, epochs, indices, 1) * (room_right + 1)).long()
    else:
        top, left = (torch.full_like(indices, room // 2) for room in (room_down, room_right))
    along = torch.arange(size, device=images.device)
    columns = along.expand(count, size)
    if augmentation.flip:
        mirrored = uniform(seed, epochs, indices, 2) < 0.5
        columns = torch.where(mirrored[:, None], size - 1 - columns, columns)
    rows = (top[:, None] + along)[:, :, None]
    columns = (left[:, None] + columns)[:, None, :]
    image = torch.arange(count, device=images.device)[:, None, None]
    return images[image, rows, columns].permute(0, 3, 1, 2)


def _resized_crop(
    images: Tensor, augmentation: Augmentation, seed: int, epochs: Tensor, indices: Tensor, size: int
) -> Tensor:
    draws = [uniform(seed, epochs, indices, draw) for draw in range(5)]
    if augmentation.crop == "scaled":
        least, most = augmentation.shorter
        wide = high = size / (least + (draws[3] * (most - least + 1)).floor())
    else:
        area = augmentation.least_area + (1 - augmentation.least_area) * draws[3]
        shape = torch.exp((2 * draws[4] - 1) * float(np.log(4 / 3)))  # width / height
        wide, high = ((area * shape).sqrt().clamp(max=1), (area / shape).sqrt().clamp(max=1))
    across, down = (2 * draws[1] - 1) * (1 - wide), (2 * draws[0] - 1) * (1 - high)
    if augmentation.flip:
        wide = torch.where(draws[2] < 0.5, -wide, wide)
    zero = torch.zeros_like(wide)
    matrix = torch.stack([torch.stack([wide, zero, across], 1), torch.stack([zero, high, down], 1)], 1)
    grid = functional.affine_grid(matrix, [len(images), 1, size, size], align_corners=False)
    pictures = images.permute(0, 3, 1, 2)
    sampled = functional.grid_sample(pictures, grid, padding_mode="reflection", align_corners=False)
    return sampled.contiguous(memory_format=torch.channels_last)


def mix(images: Tensor, augmentation: Augmentation, seed: int, step: int) -> tuple[Tensor, float]:
    """Mix each image with its mirror in the batch (row i with row B-1-i); returns the share of the own label.

    One draw serves the batch, from (seed, step).  Without mixup and cutmix: the images themselves and 1.0.
    """
    if not augmentation.mixup and not augmentation.cutmix:
        return images, 1.0
    rng = np.random.Generator(np.random.Philox(key=key(seed, step, -2) & 0xFFFF_FFFF_FFFF_FFFF))
    use_cutmix = augmentation.cutmix > 0 and (augmentation.mixup == 0 or rng.random() < 0.5)
    parameter = augmentation.cutmix if use_cutmix else augmentation.mixup
    share = float(rng.beta(parameter, parameter))
    partners = images.flip(0)
    if not use_cutmix:
        return torch.lerp(partners, images, share), share
    height, width = images.shape[2:]
    high, wide = (round(side * (1 - share) ** 0.5) for side in (height, width))
    top, left = int(rng.integers(height - high + 1)), int(rng.integers(width - wide + 1))
    images = images.clone()
    images[:, :, top : top + high, left : left + wide] = partners[:, :, top : top + high, left : left + wide]
    return images, 1 - high * wide / (height * width)
