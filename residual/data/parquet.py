"""Images in parquet files, as on the Hugging Face hub: `plain_text/train-00000-of-00001.parquet`.

A row has an image (a struct of bytes and path, or the bytes themselves) and a label (a number).  Class names
come from the description that the hub writes into each file; without one they are the numbers.

Images stay in their files until they are asked for.  Rows read in order cost little memory; rows read out of order
cost a search each, so a set that does not fit in memory is better packed first (`residual data pack`).
"""

import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from residual.data.assemble import Entry, Listing
from residual.data.decode import MAX_BYTES, BadImage
from residual.data.loader import File
from residual.data.split import SPELLINGS

IMAGE_COLUMNS = ("img", "image", "pixels", "photo")
LABEL_COLUMNS = ("label", "fine_label", "labels", "class", "target")
ROWS = 32  # read at once
BUFFER = 1 << 20  # bytes of a file read at once
MOST_ROWS = 20_000_000  # of a file
MOST_CLASSES = 1_000_000
HELD = 128 << 20, 1 << 30  # bytes of images read at once, least and most, however often one value is repeated
UNPACKED = 64 << 20  # bytes of a row group that may have been packed as tightly as they like
TIGHTEST = 20  # times that more may have been packed; photographs are hardly packed at all


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


def list_parquet(path: Path, tables: dict[str, list[Path]]) -> Listing:
    """The images of the parquet files that `find_parquet` found: labels are read, images are not."""
    try:
        import pyarrow
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
                table = _Table(file, name)
                labels = table.labels()
            except (OSError, pyarrow.ArrowException) as error:
                raise ValueError(f"{name} cannot be read as parquet ({error})") from None
            named = table.class_names()
            if classes is not None and named is not None and named != classes:
                raise ValueError(f"{name} names other classes than the files before it")
            classes = named if classes is None else classes
            status = file.stat()
            stamp = (status.st_size, status.st_mtime_ns)
            for row, number in enumerate(labels):
                if not isinstance(number, int) or number < 0:
                    raise ValueError(f"{name}, row {row}: label {number!r} is no class number")
                highest = max(highest, number)
                cell = File(name=f"{name}:{row}", data=_Cell(table, row), stamp=stamp)
                entries.append(Entry(file=cell, label=number, split=split))
    if classes is None:
        if highest >= MOST_CLASSES:
            raise ValueError(f"{path}: a label is {highest}, but there are at most {MOST_CLASSES:,} classes")
        classes = tuple(str(number) for number in range(highest + 1))
    if highest >= len(classes):
        raise ValueError(f"{path}: a label is {highest}, but there are {len(classes)} classes")
    if "validation" not in tables and "test" not in tables:
        entries = [Entry(file=entry.file, label=entry.label, split=None) for entry in entries]
    return Listing(
        entries=entries,
        classes=classes,
        origin=f"parquet files in {path.name}",
        split={"made": "by the parquet files"},
    )


@dataclass(frozen=True)
class _Cell:
    """The image of one row, still in its file."""

    table: "_Table"
    row: int

    def read(self) -> bytes:
        return self.table.image(self.row)


class _Table:
    """One parquet file, read a few rows at a time, best in order."""

    def __init__(self, path: Path, name: str) -> None:
        import pyarrow.parquet

        self.path, self.name = path, name
        self.file = pyarrow.parquet.ParquetFile(path, buffer_size=BUFFER, pre_buffer=False)
        self.image_column, self.label_column = _columns(self.file.schema_arrow, name)
        if self.file.metadata.num_rows > MOST_ROWS:
            raise ValueError(f"{name} has {self.file.metadata.num_rows:,} rows, more than {MOST_ROWS:,}; split it")
        self.starts = [0]  # the first row of each row group, and the number of rows
        for group in range(self.file.metadata.num_row_groups):
            self.starts.append(self.starts[-1] + self.file.metadata.row_group(group).num_rows)
        largest = max((self._unpacked(group) for group in range(len(self.starts) - 1)), default=0)
        held = min(max(HELD[0], 4 * path.stat().st_size), HELD[1])
        self.step = min(ROWS, max(1, held // max(1, largest)))  # rows at once
        self._reading = threading.Lock()
        self._first, self._rows = 0, list[Any]()  # what was read last: cells, still in Arrow's memory
        self._rest = self._batches(0)

    def labels(self) -> list[Any]:
        import pyarrow

        kind = self.file.schema_arrow.field(self.label_column).type
        if pyarrow.types.is_nested(kind):
            raise ValueError(f"{self.name}: its column {self.label_column} holds {kind}, which is no class number")
        rows: list[Any] = self.file.read(columns=[self.label_column]).column(0).to_pylist()
        return rows

    def class_names(self) -> tuple[str, ...] | None:
        """As the hub describes them inside the file."""
        try:
            features = json.loads((self.file.schema_arrow.metadata or {})[b"huggingface"])["info"]["features"]
            names = features[self.label_column]["names"]
        except (KeyError, TypeError, ValueError, RecursionError):
            return None
        return tuple(str(name) for name in names) if isinstance(names, list) and names else None

    def image(self, row: int) -> bytes:
        """The bytes of one image; of none, where there is no image."""
        import pyarrow

        with self._reading:
            try:
                cell = self._row(row)
            except (OSError, pyarrow.ArrowException) as error:
                raise BadImage(f"its parquet file cannot be read ({error})") from None
        if isinstance(cell, pyarrow.StructScalar) and cell.is_valid and cell.type.get_field_index("bytes") >= 0:
            cell = cell["bytes"]
        if isinstance(cell, pyarrow.DictionaryScalar):
            cell = cell.value
        if not isinstance(cell, pyarrow.BinaryScalar) or not cell.is_valid:
            return b""
        data = cell.as_buffer()
        if data.size > MAX_BYTES:
            raise BadImage(f"{data.size / 1e6:.1f} MB; an image file has at most {MAX_BYTES / 1e6:.0f} MB")
        return bytes(data.to_pybytes())

    def _row(self, row: int) -> Any:
        end = self._first + len(self._rows)
        group = next(place for place, start in enumerate(self.starts[1:]) if row < start)
        skips = self.starts[group] >= end + self.step  # more than is read at once
        if skips or row < self._first:
            self._first, self._rows = self.starts[group], []
            self._rest = self._batches(group)
        while row >= self._first + len(self._rows):
            self._first, self._rows = self._first + len(self._rows), []
            self._rows = list(next(self._rest).column(0))
        return self._rows[row - self._first]

    def _unpacked(self, group: int) -> int:
        """Bytes of the images of a row group when they are unpacked.  Refuses what no images would be."""
        told = self.file.metadata.row_group(group)
        columns = [told.column(number) for number in range(told.num_columns)]
        images = [each for each in columns if each.path_in_schema.split(".")[0] == self.image_column]
        unpacked: int = sum(each.total_uncompressed_size for each in images)
        packed: int = sum(each.total_compressed_size for each in images)
        if unpacked > max(UNPACKED, min(TIGHTEST * packed, MAX_BYTES * told.num_rows)):
            raise ValueError(
                f"{self.name}: the {told.num_rows:,} images of its row group {group} are {packed:,} bytes that unpack "
                f"to {unpacked:,}, as no photographs do; write it with fewer images per row group"
            )
        return unpacked

    def _batches(self, group: int) -> Iterator[Any]:
        groups = range(group, len(self.starts) - 1)
        batches: Iterator[Any] = self.file.iter_batches(self.step, row_groups=groups, columns=[self.image_column])
        return batches


def _columns(schema: Any, name: str) -> tuple[str, str]:
    image = next((column for column in IMAGE_COLUMNS if column in schema.names), None)
    label = next((column for column in LABEL_COLUMNS if column in schema.names), None)
    if image is None or label is None:
        raise ValueError(
            f"{name} has the columns {', '.join(schema.names)}; an image column is called "
            f"{' or '.join(IMAGE_COLUMNS)}, a label column {' or '.join(LABEL_COLUMNS)}"
        )
    return image, label
