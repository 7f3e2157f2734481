import builtins
import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from residual.data.decode import BadImage
from residual.data.sources import list_images, open_dataset

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def png(seed: int) -> bytes:
    buffer = BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write(path: Path, images: list, labels: list, *, names=("cat", "dog"), image="img", label="label") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.table({image: images, label: labels})
    if names:
        features = {"info": {"features": {label: {"names": list(names), "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    parquet.write_table(table, path)


def cells(count: int, start: int = 0) -> list[dict]:
    return [{"bytes": png(start + number), "path": None} for number in range(count)]


def test_files_as_on_the_hub_are_read_with_their_class_names(tmp_path):
    write(tmp_path / "plain_text" / "train-00000-of-00002.parquet", cells(4), [0, 1, 0, 1])
    write(tmp_path / "plain_text" / "train-00001-of-00002.parquet", cells(2, 10), [1, 1])
    write(tmp_path / "plain_text" / "test-00000-of-00001.parquet", cells(3, 20), [1, 0, 1])
    data = open_dataset(str(tmp_path), workers=1)
    assert data.classes == ("cat", "dog")
    assert data.train.labels.tolist() == [0, 1, 0, 1, 1, 1]
    assert data.test.labels.tolist() == [1, 0, 1]
    assert data.validation is None
    assert (data.train.pixels[4].numpy() == np.asarray(Image.open(BytesIO(png(10))))).all()
    assert data.train.names[4] == "plain_text/train-00001-of-00002.parquet:0"


def test_without_names_and_struct_the_numbers_and_bytes_serve(tmp_path):
    write(
        tmp_path / "train.parquet", [png(number) for number in range(20)], [number % 3 for number in range(20)],
        names=None, image="image", label="fine_label",
    )  # fmt: skip
    data = open_dataset(str(tmp_path))
    assert data.classes == ("0", "1", "2")
    assert len(data.validation) == 3


def test_a_row_without_an_image_is_listed(tmp_path):
    write(tmp_path / "train.parquet", [*cells(3), {"bytes": None, "path": "a.png"}], [0, 1, 0, 1])
    data = open_dataset(str(tmp_path))
    assert [problem.path for problem in data.problems] == ["train.parquet:3"]


@pytest.mark.parametrize(
    "labels, named, reason",
    [([0, -1], {}, "label -1"), ([0, 5], {}, "a label is 5"), ([0, 1], {"image": "scan"}, "the columns scan")],
)
def test_what_does_not_fit_is_refused(tmp_path, labels, named, reason):
    write(tmp_path / "train.parquet", cells(2), labels, **named)
    with pytest.raises(ValueError, match=reason):
        open_dataset(str(tmp_path))


def test_a_file_that_is_no_parquet_is_refused(tmp_path):
    (tmp_path / "train.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(ValueError, match=r"train\.parquet cannot be read as parquet"):
        open_dataset(str(tmp_path))


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    write(tmp_path / "train.parquet", cells(2), [0, 1])
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"residual\[data\]"):
        open_dataset(str(tmp_path))


@pytest.mark.parametrize("word", ["test", "testing"])
def test_splits_are_spelt_as_for_folders(tmp_path, word):
    write(tmp_path / "training.parquet", cells(4), [0, 1, 0, 1])
    write(tmp_path / f"{word}.parquet", cells(2, 10), [0, 1])
    data = open_dataset(str(tmp_path))
    assert (len(data.test), data.made_here) == (2, False)


def test_images_stay_in_their_files_and_come_in_any_order(tmp_path):
    """Row groups of 50 images, read 32 at a time: in order, backwards, and from two lists at once."""
    images = [png(number) for number in range(130)]
    table = pyarrow.table({"img": [{"bytes": one, "path": None} for one in images], "label": [0, 1] * 65})
    parquet.write_table(table, tmp_path / "train.parquet", row_group_size=50)
    cells = [entry.file.data for entry in list_images(tmp_path).entries]
    assert not any(isinstance(cell, bytes) for cell in cells)
    for order in (range(130), range(129, -1, -1), [5, 100, 99, 6, 49, 50, 51, 0, 129, 129]):
        assert all(cells[row].read() == images[row] for row in order)


@pytest.mark.parametrize("repeated", [1, 200])
def test_images_that_unpack_to_a_multiple_of_their_bytes_are_refused_unread(tmp_path, repeated):
    """70 MB of zeros in a file of kilobytes, as pages of their own and as one value that is referred to."""
    rows = [bytes(70_000_000 // repeated) + bytes([number % 2]) for number in range(repeated)]
    parquet.write_table(
        pyarrow.table({"img": rows, "label": [number % 2 for number in range(repeated)]}),
        tmp_path / "train.parquet", compression="zstd", use_dictionary=False,
    )  # fmt: skip
    assert (tmp_path / "train.parquet").stat().st_size < 100_000
    before = pyarrow.total_allocated_bytes()
    with pytest.raises(ValueError, match=r"row group 0 are .* bytes that unpack to 70,0.*fewer images per row group"):
        open_dataset(str(tmp_path))
    assert pyarrow.total_allocated_bytes() - before < 1_000_000


def test_one_value_referred_to_by_many_rows_is_not_multiplied_in_memory(tmp_path):
    value = pyarrow.array([bytes(18_000_000)])  # less than the 20 MB that an image file may have
    rows = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 64), value)
    parquet.write_table(
        pyarrow.table({"img": rows, "label": [0, 1] * 32}),
        tmp_path / "train.parquet", compression="zstd", dictionary_pagesize_limit=1 << 30, store_schema=False,
    )  # fmt: skip
    assert (tmp_path / "train.parquet").stat().st_size < 100_000
    for entry in list_images(tmp_path).entries[:16]:
        assert len(entry.file.data.read()) == 18_000_000
        assert len(entry.file.data.table._rows) * 18_000_000 <= 128 << 20  # rows read at once


def test_images_of_a_dictionary_column_are_read(tmp_path):
    images = pyarrow.array([png(0), png(1), png(0), png(1)]).dictionary_encode()
    parquet.write_table(pyarrow.table({"img": images, "label": [0, 1, 0, 1]}), tmp_path / "train.parquet")
    assert [entry.file.data.read() for entry in list_images(tmp_path).entries] == [png(0), png(1)] * 2


def test_an_image_larger_than_one_may_be_is_refused_before_it_is_copied(tmp_path):
    write(tmp_path / "train.parquet", [*cells(3), {"bytes": bytes(20_000_001), "path": None}], [0, 1, 0, 1])
    large = list_images(tmp_path).entries[3].file.data
    with pytest.raises(BadImage, match=r"20\.0 MB; an image file has at most 20 MB"):
        large.read()


@pytest.mark.parametrize(
    ("labels", "reason"),
    [([0, 10**11], "label is 100000000000, but there are at most 1,000,000 classes"), ([[0], [1]], "no class number")],
)
def test_labels_that_ask_for_too_many_classes_are_refused(tmp_path, labels, reason):
    write(tmp_path / "train.parquet", cells(2), labels, names=None)
    with pytest.raises(ValueError, match=reason):
        open_dataset(str(tmp_path))


def test_rows_are_bounded_in_number(tmp_path, monkeypatch):
    write(tmp_path / "train.parquet", cells(4), [0, 1, 0, 1])
    monkeypatch.setattr("residual.data.parquet.MOST_ROWS", 3)
    with pytest.raises(ValueError, match="has 4 rows, more than 3; split it"):
        open_dataset(str(tmp_path))


def test_memory_stays_flat_over_a_parquet_file(tmp_path):
    """200 MB of images in one file, none of which is kept."""
    noise = np.random.default_rng(0).bytes(2_000_000)
    writer = parquet.ParquetWriter(
        tmp_path / "train.parquet", pyarrow.schema([("img", pyarrow.binary()), ("label", pyarrow.int64())]),
        compression="none", use_dictionary=False,
    )  # fmt: skip
    for number in range(10):
        rows = [number.to_bytes(4, "little") + noise for _ in range(10)]
        writer.write_table(pyarrow.table({"img": rows, "label": [0, 1] * 5}, schema=writer.schema))
    writer.close()
    before = pyarrow.total_allocated_bytes()
    cells = [entry.file.data for entry in list_images(tmp_path).entries]
    for row, cell in enumerate(cells):
        assert cell.read()[:4] == (row // 10).to_bytes(4, "little")
        assert pyarrow.total_allocated_bytes() - before < 100_000_000
    assert len(cells) == 100
