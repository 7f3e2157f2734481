"""The documents say what the journal says, each in its form."""

import csv
import json
from pathlib import Path

import msgspec
import pytest

from residual.serve.answers import (
    ABOUT,
    DOCUMENT,
    TABLE,
    Detection,
    FrameAnswer,
    ImageAnswer,
    Mask,
    Tally,
    VideoBegin,
    VideoEnd,
    entry_of,
    printed,
    put,
    tally,
    write_documents,
)
from residual.serve.journal import Journal

ABOUT_IT = {"network": "n", "weights": "w", "classes": ["a, b", "c\n"], "score": 0.5, "procedure": {"side": 600}}
CAT = Detection(label="a, b", probability=0.75, box=(0.25, 1, 2, 3.5), track=None)
DOG = Detection(label="c\n", probability=0.5, box=(0, 0, 4, 4), track=7, mask=Mask((2, 2), [1, 3]))
ENTRIES = [
    ImageAnswer(path="x.png", size=(9, 8), picture="pictures/x.png", detections=[CAT, DOG]),
    VideoBegin(path="v.mp4"),
    FrameAnswer(frame=0, time=0.0, detections=[]),
    FrameAnswer(frame=1, time=0.04, detections=[DOG]),
    VideoEnd(size=(9, 8), rate=25.0, video="v.mp4", notes=["odd"]),
    ImageAnswer(path='"y".png', detections=[], problem="damaged"),
    VideoBegin(path="w.mp4"),
    VideoEnd(problem="not a video"),
]


def documents(folder: Path, entries: list[object]) -> Tally:
    with Journal(folder / "detections.jsonl", ABOUT_IT | {"images": "secret"}) as journal:
        for entry in entries:
            journal.append(msgspec.json.encode(entry))
        write_documents(journal)
        return tally(journal)


def test_the_document_has_images_then_videos_with_their_frames(tmp_path: Path):
    documents(tmp_path, ENTRIES)
    document = json.loads((tmp_path / DOCUMENT).read_text())
    assert {name: document.pop(name) for name in ABOUT} == ABOUT_IT
    assert document.pop("format") == 1
    plain = [msgspec.to_builtins(entry) for entry in ENTRIES]
    video, end, broken, broken_end = plain[1], plain[4], plain[6], plain[7]
    for each in (end, broken_end):
        del each["kind"]
    expected = {
        "images": [plain[0], plain[5]],
        "videos": [video | {"frames": [plain[2], plain[3]]} | end, broken | {"frames": []} | broken_end],
    }
    assert document == json.loads(json.dumps(expected))


def test_the_table_has_a_row_for_each_detection(tmp_path: Path):
    documents(tmp_path, ENTRIES)
    with (tmp_path / TABLE).open(newline="") as file:
        rows = [tuple(row.values()) for row in csv.DictReader(file)]
    assert rows == [
        ("x.png", "", "", "a, b", "0.75", "0.25", "1.0", "2.0", "3.5", ""),
        ("x.png", "", "", "c\n", "0.5", "0.0", "0.0", "4.0", "4.0", "7"),
        ("v.mp4", "1", "0.04", "c\n", "0.5", "0.0", "0.0", "4.0", "4.0", "7"),
    ]


def test_of_nothing_the_documents_are_empty_and_whole(tmp_path: Path):
    assert documents(tmp_path, []) == Tally(objects=0, pictures=0, images=0, bare=0, bad=0, problem=None)
    document = json.loads((tmp_path / DOCUMENT).read_text())
    assert (document["images"], document["videos"]) == ([], [])
    assert len((tmp_path / TABLE).read_text().splitlines()) == 1


def test_what_was_found_is_counted(tmp_path: Path):
    assert documents(tmp_path, ENTRIES) == Tally(objects=3, pictures=3, images=1, bare=0, bad=2, problem="damaged")


def test_images_on_which_nothing_is_are_counted_frames_are_not(tmp_path: Path):
    told = documents(tmp_path, [ENTRIES[0], ImageAnswer(path="z.png", size=(9, 8), detections=[]), *ENTRIES[1:]])
    assert (told.images, told.bare, told.pictures) == (2, 1, 4)


@pytest.mark.parametrize("entry", ENTRIES)
def test_entries_come_back_from_their_lines(entry: object):
    assert entry_of(msgspec.json.encode(entry)) == entry


def test_a_name_that_is_no_text_is_told_as_bytes():
    assert printed("a\udcff") == "a\\xff"
    msgspec.json.encode(printed("\ud800".encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape")))


def test_a_file_that_cannot_be_finished_leaves_what_was_there(tmp_path: Path):
    put(tmp_path / "x", [b"old"])

    def parts():
        yield b"new"
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        put(tmp_path / "x", parts())
    assert (tmp_path / "x").read_bytes() == b"old"
