"""The options that choose the test of a classifier, and the protocol that they make."""

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from residual.data.transforms import Preprocessing
    from residual.evaluate.protocol import Protocol

PROTOCOLS = ("one-crop", "ten-crop", "multi-scale")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The options of a protocol as they were given; None is left to the network."""

    name: str
    size: int | None
    crop: float | None
    interpolation: str | None
    corners: str | None
    scales: str | None
    flips: bool | None
    average: str | None
    positions: str | None
    precision: str | None

    def of_views(self) -> list[str]:
        """The options that decide the views themselves; their average can still be chosen when they are combined."""
        given = [f"--{name}" for name, value in asdict(self).items() if value is not None]
        return [option for option in given if option not in ("--name", "--average")] + (
            ["--protocol"] if self.name != PROTOCOLS[0] else []
        )

    def protocol(self, preprocessing: "Preprocessing") -> "Protocol":
        """For a network that expects this."""
        from residual.evaluate.protocol import at_size, multi_scale, one_crop, ten_crop

        of_others = {
            "one-crop": ("corners", "scales", "positions"),
            "ten-crop": ("scales", "positions"),
            "multi-scale": ("size", "crop", "corners"),
        }
        if wrong := [name for name in of_others[self.name] if getattr(self, name) is not None]:
            raise ValueError(f"--{wrong[0]} is not of protocol {self.name}; leave it out, or choose another --protocol")
        given = {name: getattr(self, name) for name in ("interpolation", "precision") if getattr(self, name)}
        once = replace(one_crop(preprocessing), **given)
        if self.name == "multi-scale":
            found = multi_scale(once)
            if self.scales is not None:
                found = replace(found, scales=sides_of(self.scales))
        else:
            found = at_size(once, self.size, self.crop)
        if self.name == "ten-crop":
            found = ten_crop(found)
        chosen = {name: getattr(self, name) for name in ("corners", "flips", "average", "positions")}
        chosen["pad"] = 0 if self.corners == "image" else None
        return replace(found, **{name: value for name, value in chosen.items() if value is not None})


def sides_of(text: str) -> tuple[int, ...]:
    """What --scales gives, shorter sides in pixels."""
    words = text.split(",")
    if not all(word.strip().isdecimal() for word in words):
        raise ValueError(f"--scales {text} is not a list of shorter sides in pixels, such as 224,256,384")
    return tuple(int(word) for word in words)
