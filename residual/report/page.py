"""What every report page shares: the templates, how numbers and times are written, and tables of facts.

Whatever came from a file is text to a template, never markup: jinja2 escapes it, and the page's own security
policy forbids scripts and every request.
"""

import base64
import binascii
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from residual import records

PNG = b"\x89PNG\r\n\x1a\n"
SMALL_PICTURE = 96  # pixels; a picture up to this side is shown with its pixels, not smoothed
LONG_LIST = 24  # a list of more numbers (a mean for every pixel has 3072) is told in short


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A few names and their values under one title, ready to be printed."""

    title: str
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A PNG that can stand in the page itself."""

    source: str  # a data: address
    pixelated: bool


def write_page(path: Path, template: str, **content: Any) -> Path:
    """Render a template of this folder and write it durably; returns the path."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    folder = Path(__file__).parent / "templates"
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"count": count, "percent": percent, "share": share, "plural": plural}
    style = Markup((folder / "style.css").read_text(encoding="utf-8"))
    html = environment.get_template(template).render(style=style, **content)
    records.write_durably(path, html.encode("utf-8", "backslashreplace"))
    return path


def count(number: float) -> str:
    """12345 -> 12,345."""
    return f"{number:,.0f}"


def percent(number: float, digits: int = 2) -> str:
    """8.4217 (already in percent) -> 8.42 %."""
    return f"{number:.{digits}f} %"


def share(fraction: float, digits: int = 1) -> str:
    """0.0843 (a fraction of one) -> 8.4 %."""
    return percent(100 * fraction, digits)


def plural(number: int, noun: str) -> str:
    """3, "image" -> 3 images."""
    ending = "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{'' if number == 1 else ending}"


def duration(seconds: float) -> str:
    """8047 -> 2 h 14 min."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def facts(values: Mapping[str, Any], *, title: str = "") -> list[Facts]:
    """Any JSON object as titled tables: plain values first, each nested object under its own title."""
    values = dict(sorted(values.items(), key=lambda item: item[0] != "name"))  # a thing's name comes first
    rows = tuple((_words(name), _value(value)) for name, value in values.items() if not _is_group(value))
    groups = [Facts(title=title, rows=rows)] if rows else []
    for name, value in values.items():
        if _is_group(value):
            groups += facts(value, title=f"{title}, {_words(name)}" if title else _words(name))
    return groups


def picture(png: str) -> Picture | None:
    """A base64 PNG from a file; None where it is not one."""
    try:
        data = base64.b64decode(png, validate=True)
    except (binascii.Error, ValueError):
        return None
    if not data.startswith(PNG) or len(data) < 24:
        return None
    width, height = int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    address = "data:image/png;base64," + base64.b64encode(data).decode("ascii")
    return Picture(source=address, pixelated=max(width, height) <= SMALL_PICTURE)


def _is_group(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _value(value: Any) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case int():
            return str(value)
        case float():
            return f"{value:.6g}"
        case str():
            return value or "none"
        case list() | tuple():
            return _list(value)
    return json.dumps(value, ensure_ascii=False)


def _list(values: Iterable[Any]) -> str:
    items = list(values)
    if not items or any(isinstance(item, Mapping | list | tuple) for item in items):
        return json.dumps(items, ensure_ascii=False) if items else "none"
    numbers = [item for item in items if isinstance(item, int | float) and math.isfinite(item)]
    if len(items) > LONG_LIST and len(numbers) == len(items):
        return f"{len(items):,} numbers from {min(numbers):.4g} to {max(numbers):.4g}"
    if len(items) > LONG_LIST:
        return f"{len(items):,}: {', '.join(_value(item) for item in items[:4])}, …, {_value(items[-1])}"
    return ", ".join(_value(item) for item in items)
