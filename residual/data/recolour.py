"""What a training picture may lose beside its place: colours, sharpness, straightness, a rectangle.

Shapes: B images of H x W pixels, C channels; uint8 or float (B, H, W, C) in units of 0..255.

Each function is a pure function of (seed, visit, image index), whose random numbers are those of `transforms`.
The operations of the policies are torchvision's; which of them, and how strong, is decided here.
"""

import math

import torch
from torch import Tensor

from residual.data.transforms import Augmentation, uniform

# Of RGB in 0..1 over ImageNet (Krizhevsky et al. 2012; the figures are those of fb.resnet.torch's imagenet.lua).
EIGENVALUES = (0.2175, 0.0188, 0.0045)
EIGENVECTORS = (
    (-0.5675, 0.7192, 0.4009),
    (-0.5808, -0.0045, -0.8140),
    (-0.5836, -0.6948, 0.4203),
)  # rows are R, G, B; columns are the components
LUMA = (0.299, 0.587, 0.114)
TRIES = 10  # at a rectangle that fits
# Which of an image's random numbers are whose; `crop` has those below 200.
_POLICY, _JITTER, _LIGHTING, _ERASE = 1000, 2000, 3000, 4000


def recolour(pixels: Tensor, augmentation: Augmentation, seed: int, visits: Tensor, indices: Tensor) -> Tensor:
    """Policy, jitter, lighting, in this order: (B, H, W, C) uint8 -> float32 of the same shape, in 0..255."""
    if augmentation.policy != "none":
        pixels = apply_policy(pixels, augmentation, seed, visits, indices)
    values = pixels.to(torch.float32)
    if augmentation.jitter:
        values = jitter(values, augmentation.jitter, seed, visits, indices)
    if augmentation.lighting:
        values = light(values, augmentation.lighting, seed, visits, indices)
    return values


def jitter(values: Tensor, strength: float, seed: int, visits: Tensor, indices: Tensor) -> Tensor:
    """Brightness, contrast and saturation by factors in 1 - strength .. 1 + strength, in random order.

    Each moves a picture away from or towards a duller one: black, its mean grey, its own greys.
    """
    draws = torch.stack([uniform(seed, visits, indices, _JITTER + number) for number in range(6)])
    factors = 1 + strength * (2 * draws[:3] - 1)  # (3, B)
    order = draws[3:].argsort(0)
    for kinds in order:
        greys = _luma(values)  # (B, H, W, 1)
        kind = kinds[:, None, None, None]
        dull = torch.where(kind == 0, 0.0, torch.where(kind == 1, greys.mean((1, 2, 3), keepdim=True), greys))
        factor = factors.gather(0, kinds[None])[0][:, None, None, None]
        values = torch.lerp(dull.expand_as(values), values, factor).clamp(0, 255)
    return values


def light(values: Tensor, deviation: float, seed: int, visits: Tensor, indices: Tensor) -> Tensor:
    """Add to every pixel of an image one colour, drawn along the principal components of ImageNet's colours."""
    if values.shape[3] != 3:
        raise ValueError("`lighting` is noise in RGB; images of one channel have none: leave it at 0")
    draws = [uniform(seed, visits, indices, _LIGHTING + number) for number in range(6)]
    # Box and Muller's two normals of two uniforms, of which one is taken.
    alphas = torch.stack([_normal(draws[2 * component], draws[2 * component + 1]) for component in range(3)], 1)
    vectors, scales = values.new_tensor(EIGENVECTORS), values.new_tensor(EIGENVALUES)
    colours = 255 * (alphas * deviation * scales) @ vectors.T  # (B, 3)
    return values + colours[:, None, None, :]


def erase(pictures: Tensor, augmentation: Augmentation, seed: int, visits: Tensor, indices: Tensor) -> Tensor:
    """Set a random rectangle of some pictures to 0, the mean colour: (B, C, H, W) float, normalised.

    Its area is 2 to 33 % of the picture, its height over width between 0.3 and 3.3.
    """
    if not augmentation.erase:
        return pictures
    height, width = pictures.shape[2:]

    def drawn(number: int) -> Tensor:
        return torch.stack([uniform(seed, visits, indices, _ERASE + 8 * attempt + number) for attempt in range(TRIES)])

    area = height * width * (0.02 + 0.31 * drawn(1))  # (TRIES, B)
    shape = torch.exp((2 * drawn(2) - 1) * math.log(1 / 0.3))
    high, wide = (area * shape).sqrt().round(), (area / shape).sqrt().round()
    fits = (high < height) & (wide < width)
    first = fits.to(torch.uint8).argmax(0, keepdim=True)
    high, wide = high.gather(0, first)[0], wide.gather(0, first)[0]
    top = (uniform(seed, visits, indices, _ERASE + 3) * (height - high + 1)).floor()
    left = (uniform(seed, visits, indices, _ERASE + 4) * (width - wide + 1)).floor()
    chosen = (uniform(seed, visits, indices, _ERASE) < augmentation.erase) & fits.any(0)
    down = torch.arange(height, device=pictures.device)
    right = torch.arange(width, device=pictures.device)
    rows = (down >= top[:, None]) & (down < (top + high)[:, None]) & chosen[:, None]
    columns = (right >= left[:, None]) & (right < (left + wide)[:, None])
    return pictures.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0.0)


def _luma(values: Tensor) -> Tensor:
    if values.shape[3] == 1:
        return values
    return (values * values.new_tensor(LUMA)).sum(3, keepdim=True)


def _normal(first: Tensor, second: Tensor) -> Tensor:
    return (-2 * torch.log1p(-first)).sqrt() * torch.cos(2 * math.pi * second)


# --- policies ------------------------------------------------------------------------------------------------------

# Operation -> (amount at full strength, whether it may be negative).  Shears are tangents, moves pixels, shifts
# shares of the side, rotations degrees; brightness to sharpness change the factor 1 by the amount.
TRIVIAL = {
    "identity": (0.0, False),
    "shear x": (0.99, True),
    "shear y": (0.99, True),
    "move x": (32.0, True),
    "move y": (32.0, True),
    "rotate": (135.0, True),
    "brightness": (0.99, True),
    "saturation": (0.99, True),
    "contrast": (0.99, True),
    "sharpness": (0.99, True),
    "posterize": (6.0, False),  # bits of 8 taken away
    "solarize": (255.0, False),  # grey levels taken from the threshold of 255
    "autocontrast": (0.0, False),
    "equalize": (0.0, False),
}
RANDOM = {
    "autocontrast": (0.0, False),
    "equalize": (0.0, False),
    "invert": (0.0, False),
    "rotate": (30.0, True),
    "posterize by 4": (4.0, False),  # four bits are gone before it begins
    "solarize": (255.0, False),
    "brighten the dark": (110.0, False),  # added to levels below 128
    "saturation": (0.9, True),
    "contrast": (0.9, True),
    "brightness": (0.9, True),
    "sharpness": (0.9, True),
    "shear x": (0.3, True),
    "shear y": (0.3, True),
    "shift x": (0.45, True),
    "shift y": (0.45, True),
}
BLACK, MEAN = (0.0, 0.0, 0.0), (124.0, 116.0, 104.0)  # what comes in where a picture is moved away


def apply_policy(pixels: Tensor, augmentation: Augmentation, seed: int, visits: Tensor, indices: Tensor) -> Tensor:
    """TrivialAugment or RandAugment, image by image: (B, H, W, C) uint8 -> the same."""

    def drawn(number: int) -> list[float]:
        draws: list[float] = uniform(seed, visits, indices, _POLICY + number).tolist()
        return draws

    pictures = list(pixels.permute(0, 3, 1, 2))
    if augmentation.policy == "trivialaugment":
        for row, (which, strength, sign) in enumerate(zip(drawn(0), drawn(1), drawn(2), strict=True)):
            level = int(strength * 31) / 30  # the method has 31 strengths
            pictures[row] = _operate(pictures[row], TRIVIAL, which, level, sign, BLACK)
        return torch.stack(pictures).permute(0, 2, 3, 1)
    for layer in range(augmentation.operations):
        first, second = (uniform(seed, visits, indices, _POLICY + 8 * layer + number) for number in (3, 4))
        noise = _normal(first, second) * augmentation.magnitude_std
        levels = (augmentation.magnitude + noise).clamp(0, 10) / 10
        three = (drawn(8 * layer + number) for number in range(3))
        for row, (which, sign, applied, level) in enumerate(zip(*three, levels.tolist(), strict=True)):
            if applied < 0.5:
                pictures[row] = _operate(pictures[row], RANDOM, which, level, sign, MEAN)
    return torch.stack(pictures).permute(0, 2, 3, 1)


def _operate(
    image: Tensor,
    table: dict[str, tuple[float, bool]],
    which: float,
    level: float,
    sign: float,
    fill: tuple[float, ...],
) -> Tensor:
    """The operation that `which`, in [0, 1), picks, at a strength of 0..1: (C, H, W) uint8 -> the same."""
    name = list(table)[int(which * len(table))]
    most, signed = table[name]
    return operate(image, name, -level * most if signed and sign < 0.5 else level * most, fill)


def operate(image: Tensor, name: str, amount: float, fill: tuple[float, ...] = BLACK) -> Tensor:
    """One operation of the tables above on one image: (C, H, W) uint8 -> the same."""
    from torchvision.transforms.v2 import InterpolationMode, functional

    def moved(*, right: float = 0.0, down: float = 0.0, shear: tuple[float, float] = (0, 0)) -> Tensor:
        picture: Tensor = functional.affine(
            image,
            angle=0.0,
            translate=[right, down],
            scale=1.0,
            shear=list(shear),
            interpolation=InterpolationMode.BILINEAR,
            fill=list(fill[: len(image)]),
            center=None if not any(shear) else [0.0, 0.0],
        )
        return picture

    height, width = image.shape[1:]
    changed: Tensor
    match name:
        case "identity":
            changed = image
        case "shear x":
            changed = moved(shear=(math.degrees(math.atan(amount)), 0.0))
        case "shear y":
            changed = moved(shear=(0.0, math.degrees(math.atan(amount))))
        case "move x":
            changed = moved(right=int(amount))
        case "move y":
            changed = moved(down=int(amount))
        case "shift x":
            changed = moved(right=round(amount * width))
        case "shift y":
            changed = moved(down=round(amount * height))
        case "rotate":
            bilinear = InterpolationMode.BILINEAR
            changed = functional.rotate(image, amount, interpolation=bilinear, fill=list(fill[: len(image)]))
        case "brightness":
            changed = functional.adjust_brightness(image, 1 + amount)
        case "saturation":
            changed = functional.adjust_saturation(image, 1 + amount)
        case "contrast":
            changed = functional.adjust_contrast(image, 1 + amount)
        case "sharpness":
            changed = functional.adjust_sharpness(image, 1 + amount)
        case "posterize":
            changed = functional.posterize(image, 8 - round(amount))
        case "posterize by 4":
            changed = functional.posterize(image, 4 - int(amount))
        case "solarize":
            changed = functional.solarize(image, 255 - amount)
        case "autocontrast":
            changed = functional.autocontrast(image)
        case "equalize":
            changed = functional.equalize(image)
        case "invert":
            changed = functional.invert(image)
        case "brighten the dark":
            changed = torch.where(image < 128, (image.int() + int(amount)).clamp(max=255).to(torch.uint8), image)
        case _:
            raise AssertionError(name)
    return changed
