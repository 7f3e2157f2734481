"""Images in parquet files, as on the Hugging Face hub: `plain_text/train-00000-of-00001.parquet`.

A row has an image (a struct of bytes and path, or the bytes themselves) and a label (a number).  Class names
come from the description that the hub writes into each file; without one they are the numbers.
"""

import json
import os
from pathlib import Path
from typing import Any

from residual.data.assemble import Entry, Progress, assemble
from residual.data.decode import View
from residual.data.images import Dataset
from residual.data.loader import File
from residual.data.split import SPELLINGS

IMAGE_COLUMNS = ("img", "image", "pixels", "photo")
LABEL_COLUMNS = ("label", "fine_label", "labels", "class", "target")


def find_parquet(path: Path) -> dict[str, list[Path]]:
    """The parquet files in a folder and the folders in it, by split; empty where there are none."""
    tables: dict[str, list[Path]] = {}
    for folder in (path, *sorted(one for one in path.iterdir() if one.is_dir() and one.name[0] != ".")):
        try:
            files = sorted(folder.glob("*.parquet"))
        except OSError:
            continue
        for file in files:
            word = file.stem.split("-")[0].split(".")[0].split("_")[0].lower()
            split = next((split for split, words in SPELLINGS.items() if word in words), None)
            if split is not None and file.is_file():
                tables.setdefault(split, []).append(file)
    return tables


def read_parquet(
    path: Path,
    tables: dict[str, list[Path]],
    *,
    size: int | None,
    view: View | None,
    seed: int,
    workers: int,
    progress: Progress | None = None,
) -> Dataset:
    """Read the parquet files that `find_parquet` found."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise ValueError(
            f"{path.name} holds parquet files, which take pyarrow to read: pip install 'residual[data]'"
        ) from None
    if "train" not in tables:
        raise ValueError(f"{path}: there are parquet files for {', '.join(tables)} but none for train")
    entries: list[Entry] = []
    classes: tuple[str, ...] | None = None
    highest = -1
    for split, files in tables.items():
        for file in files:
            name = os.path.relpath(file, path)
            try:
                table = pyarrow.parquet.ParquetFile(file)
                schema = table.schema_arrow
                image, label = _columns(schema, name)
                named = _class_names(schema, label)
                rows = table.read(columns=[image, label])
            except (OSError, pyarrow.ArrowException) as error:
                raise ValueError(f"{name} cannot be read as parquet ({error})") from None
            if classes is not None and named is not None and named != classes:
                raise ValueError(f"{name} names other classes than the files before it")
            classes = named if classes is None else classes
            pairs = zip(rows.column(image).to_pylist(), rows.column(label).to_pylist(), strict=True)
            for row, (cell, number) in enumerate(pairs):
                data = cell.get("bytes") if isinstance(cell, dict) else cell
                if not isinstance(number, int) or number < 0:
                    raise ValueError(f"{name}, row {row}: label {number!r} is no class number")
                highest = max(highest, number)
                data = data if isinstance(data, bytes) else b""
                entries.append(Entry(file=File(name=f"{name}:{row}", data=data), label=number, split=split))
    if classes is None:
        classes = tuple(str(number) for number in range(highest + 1))
    if highest >= len(classes):
        raise ValueError(f"{path}: a label is {highest}, but there are {len(classes)} classes")
    if "validation" not in tables and "test" not in tables:
        entries = [Entry(file=entry.file, label=entry.label, split=None) for entry in entries]
    return assemble(
        entries,
        classes=classes,
        origin=f"parquet files in {path.name}",
        size=size,
        view=view,
        seed=seed,
        workers=workers,
        split={"made": "by the parquet files"},
        progress=progress,
    )


def _columns(schema: Any, name: str) -> tuple[str, str]:
    image = next((column for column in IMAGE_COLUMNS if column in schema.names), None)
    label = next((column for column in LABEL_COLUMNS if column in schema.names), None)
    if image is None or label is None:
        raise ValueError(
            f"{name} has the columns {', '.join(schema.names)}; an image column is called "
            f"{' or '.join(IMAGE_COLUMNS)}, a label column {' or '.join(LABEL_COLUMNS)}"
        )
    return image, label


def _class_names(schema: Any, label: str) -> tuple[str, ...] | None:
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[label]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    return tuple(str(name) for name in names) if isinstance(names, list) and names else None
