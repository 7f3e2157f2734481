"""The views of one image that a protocol asks for.

Shapes: H x W pixels, C channels, uint8 (H, W, C); B views of one shape at a time, V of each image.
"""

from itertools import product

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from residual.data.decode import Pixels
from residual.evaluate.protocol import Protocol

PLACES = ("top left", "top right", "bottom left", "bottom right", "centre")


def cut(image: Pixels, protocol: Protocol) -> list[Pixels]:
    """The views of one decoded image that are cut or resized from its bytes; `varied` makes the others of them.

    one-crop: the centre.  ten-crop: five squares (with `pad`, the one that is shifted later).  multi-scale: the
    whole image at each scale.
    """
    if protocol.name == "multi-scale":
        return [_to_shorter_side(image, scale, protocol) for scale in protocol.scales]
    size = protocol.size
    if protocol.resize is None:
        image = _resized(image, size, size, protocol)
    else:
        image = _to_shorter_side(image, protocol.resize, protocol)
        if protocol.corners == "square":  # in two steps, as images are stored
            image = _square(image, _middle(image, protocol.resize), protocol.resize)
    centre = _middle(image, size)
    if protocol.name == "one-crop" or protocol.pad:
        return [_square(image, centre, size)]
    bottom, right = image.shape[0] - size, image.shape[1] - size
    corners = product((0, bottom), (0, right))
    return [_square(image, corner, size) for corner in (*corners, centre)]


def varied(images: Tensor, protocol: Protocol) -> list[Tensor]:
    """What the network is shown of normalised images (B, C, H, W): shifted where there is a border, then mirrored."""
    pad = protocol.pad
    shown = [images]
    if pad:
        height, width = images.shape[2:]
        bordered = functional.pad(images, (pad, pad, pad, pad))
        places = (*product((0, 2 * pad), (0, 2 * pad)), (pad, pad))
        shown = [bordered[:, :, top : top + height, left : left + width] for top, left in places]
    return shown + [view.flip(-1) for view in shown] if protocol.flips else shown


def names(protocol: Protocol) -> list[str]:
    """What each of the V views is, in the order of the scores."""
    match protocol.name:
        case "one-crop":
            found = ["centre"]
        case "ten-crop":
            found = list(PLACES)
        case "multi-scale":
            found = [f"scale {scale}" for scale in protocol.scales]
    return found + [f"{name}, mirrored" for name in found] if protocol.flips else found


def _to_shorter_side(image: Pixels, side: int, protocol: Protocol) -> Pixels:
    """By the rule of data/decode.py: the longer side rounded, neither below `side`."""
    height, width = image.shape[:2]
    shorter = min(height, width)
    new_height, new_width = (max(side, round(one * side / shorter)) for one in (height, width))
    return _resized(image, new_height, new_width, protocol)


def _resized(image: Pixels, height: int, width: int, protocol: Protocol) -> Pixels:
    if image.shape[:2] == (height, width):
        return image
    channels = image.shape[2]
    if protocol.antialias:
        picture = Image.fromarray(image.squeeze(2) if channels == 1 else image)
        done = picture.resize((width, height), Image.Resampling[protocol.interpolation.upper()])
        return np.asarray(done, dtype=np.uint8).reshape(height, width, channels)
    floats = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
    sampled = functional.interpolate(floats, (height, width), mode=protocol.interpolation, align_corners=False)
    return sampled[0].permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8).contiguous().numpy()


def _middle(image: Pixels, size: int) -> tuple[int, int]:
    return (image.shape[0] - size) // 2, (image.shape[1] - size) // 2


def _square(image: Pixels, corner: tuple[int, int], size: int) -> Pixels:
    top, left = corner
    return np.ascontiguousarray(image[top : top + size, left : left + size])
