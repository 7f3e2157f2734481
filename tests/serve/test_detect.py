"""Detection on images and videos: every source has its answer, and an interruption changes no byte."""

import csv
import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from residual.data.decode import Pixels
from residual.data.outlines import mask_of, read_outline
from residual.detect.card import card_of
from residual.detect.catalog import describe_detector
from residual.detect.draw import colour
from residual.detect.found import Found
from residual.detect.procedure import IMPROVED, Procedure
from residual.serve import detect as serving
from residual.serve.answers import DOCUMENT, JOURNAL, TABLE, Detection, tally, write_documents
from residual.serve.detect import Look, begun, detect, improved, sources
from residual.serve.journal import Journal

STEPS = 10_000


def look(
    finder: Any, paths: Sequence[Path | str], folder: Path, *, steps: int = STEPS, score: float = 0.5
) -> dict[str, Any] | None:
    """So many steps of the work; when it ends, the document."""
    listed = sources(paths)
    folder.mkdir(exist_ok=True)
    first = begun(finder.card, finder.state_dict(), listed, score, Procedure())
    with Journal(folder / JOURNAL, first) as journal:
        work = detect(finder, listed, journal, score=score, procedure=Procedure(), workers=0)
        for number, _ in enumerate(work, start=1):
            if number == steps:
                work.close()
                return None
        write_documents(journal)
    return json.loads((folder / DOCUMENT).read_text())


def pictures(moving: ModuleType, folder: Path) -> Path:
    """Pictures of the same name in two folders, and one in a third format."""
    for place, number in (("a/x.png", 0), ("b/x.png", 150), ("b/deep/x.webp", 250)):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(moving.frame(number)).save(folder / place, lossless=True)
    return folder


@pytest.fixture(scope="module")
def clip(moving: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return moving.video(tmp_path_factory.mktemp("clip") / "clip.mp4", 40)


def test_what_is_on_an_image_is_told_in_its_pixels(moving: ModuleType, tmp_path: Path):
    folder = pictures(moving, tmp_path / "pets")
    document = look(moving.Finder(masks=True), [folder], tmp_path / "out")
    image = document["images"][1]
    assert image["path"] == str(folder / "b" / "deep" / "x.webp")
    assert image["size"] == [160, 120]
    assert [one["class"] for one in image["detections"]] == ["circle", "star"]
    for one in image["detections"]:
        left, top = moving.places(250)[one["class"]]
        sprite = np.zeros((120, 160), bool)
        sprite[top : top + moving.SIDE, left : left + moving.SIDE] = moving.SPRITES[one["class"]]
        np.testing.assert_array_equal(mask_of(read_outline(one["mask"], 120, 160), 120, 160), sprite)
        rows, columns = np.nonzero(sprite)
        assert one["box"] == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert one["track"] is None


def test_of_one_class_each_object_has_a_colour_of_its_own_and_a_crowd_no_names():
    pixels, fills = np.zeros((400, 600, 3), np.uint8), [colour(number) for number in range(12)]
    told = [Detection(label="cell", probability=0.9, box=(*place, place[0] + 60, place[1] + 60), track=None)
            for place in itertools.product(range(20, 600, 150), range(40, 400, 130))]  # fmt: skip

    def drawn(count: int, name: str, *others: str) -> Pixels:
        named = [msgspec.structs.replace(one, label=name) for one in told[:count]]
        return serving._drawn(pixels, named, (*others, name))

    def seen(picture: Pixels) -> set[int]:
        return {number for number, fill in enumerate(fills) if (picture == fill).all(axis=2).any()}

    assert seen(drawn(3, "cell")) == {0, 1, 2}
    assert seen(drawn(12, "cell")) == set(range(12))
    assert seen(drawn(3, "cell", "plant")) == {1}
    for count, others, named in ((8, (), True), (9, (), False), (12, ("plant",), True)):
        assert (drawn(count, "cell", *others) != drawn(count, "leaf", *others)).any() == named


def guesser(moving: ModuleType) -> Any:
    """A localizer whose first guess has the least probability, as where a classifier tells the classes."""

    class Guesser(moving.Finder):
        def find(self, pixels: Pixels, procedure: Procedure | None = None) -> Found:
            found = super().find(pixels)
            return Found(found.boxes.flip(0), found.labels.flip(0), found.scores.flip(0))

    finder, rgb = Guesser(), (0.5, 0.5, 0.5)
    described = describe_detector("localizer_small", moving.CLASSES, side=64)
    finder.card = card_of(
        described, name="l", classes=moving.CLASSES, mean=rgb, std=(0.2, 0.2, 0.2), procedure=Procedure()
    )
    return finder


def test_of_a_localizers_guesses_the_first_is_drawn(moving: ModuleType, tmp_path: Path):
    document = look(guesser(moving), [pictures(moving, tmp_path / "pets") / "b" / "x.png"], tmp_path / "out", score=0.0)
    (image,) = document["images"]
    assert [one["class"] for one in image["detections"]] == ["square", "star", "circle"]
    with Image.open(tmp_path / "out" / image["picture"]) as picture:
        drawn = np.asarray(picture)
    framed = [(drawn == colour(moving.CLASSES.index(one["class"]))).all(axis=2).any() for one in image["detections"]]
    assert framed == [True, False, False]


def test_where_a_localizers_first_guess_is_not_sure_enough_no_other_stands_for_it(moving: ModuleType, tmp_path: Path):
    path = pictures(moving, tmp_path / "pets") / "b" / "x.png"
    (image,) = look(guesser(moving), [path], tmp_path / "out", score=0.8)["images"]  # which the others reach
    assert image["detections"] == []
    with Image.open(tmp_path / "out" / image["picture"]) as picture, Image.open(path) as given:
        larger = np.asarray(given).repeat(3, axis=0).repeat(3, axis=1)
        np.testing.assert_array_equal(np.asarray(picture), larger)
    asked = Look(guesser(moving), Procedure(), 0.8)
    asked(moving.frame(150))
    assert asked.surest == ("square", pytest.approx(0.73, abs=0.01))


def test_what_was_surest_is_of_this_image_and_of_none_before(moving: ModuleType):
    asked = Look(moving.Finder(), Procedure(), 0.5)
    assert len(asked(moving.frame(0))) == 2
    assert asked.surest == ("circle", pytest.approx(0.915, abs=0.001))
    assert asked(moving.frame(0, there={})) == []
    assert asked.surest is None


def test_pictures_of_one_name_lie_apart_and_the_originals_are_untouched(moving: ModuleType, tmp_path: Path):
    folder = pictures(moving, tmp_path / "pets")
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*.*")}
    other = pictures(moving, tmp_path / "elsewhere" / "pets")
    document = look(moving.Finder(), [folder, folder / "a" / "x.png", other], tmp_path / "out")
    drawn = [image["picture"] for image in document["images"]]
    assert drawn[:4] == [
        f"pictures/{name}" for name in ("pets/a/x.png", "pets/b/deep/x.webp.png", "pets/b/x.png", "x.png")
    ]
    assert len({each.casefold() for each in drawn}) == 7
    for each, image in zip(drawn, document["images"], strict=True):
        with Image.open(tmp_path / "out" / each) as picture:
            assert picture.width % 160 == 0  # small ones are drawn larger
            assert picture.height * 160 == picture.width * 120
        assert image["problem" if "problem" in image else "detections"]
    assert before == {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*.*")}


def test_names_that_file_systems_confuse_lie_apart(moving: ModuleType, tmp_path: Path):
    folder = tmp_path / "in"
    names = ["a.png", "A.png", "a.PNG/b.png", "u\u0308.png", "\u00fc.png", "x.gif", "x.gif.png", "n" * 250 + ".png"]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(moving.frame(0)).save(folder / name)
    (folder / "x.gif").rename(folder / "\udcff.gif")
    document = look(moving.Finder(), [folder], tmp_path / "out")
    assert all("problem" not in image for image in document["images"])
    drawn = [path for path in (tmp_path / "out" / "pictures").rglob("*") if path.is_file()]
    assert len(drawn) == len({image["picture"].casefold() for image in document["images"]}) == len(names)
    assert any(image["path"].endswith("\\xff.gif") for image in document["images"])


def test_what_cannot_be_used_is_told_in_its_place(moving: ModuleType, tmp_path: Path):
    folder = pictures(moving, tmp_path / "pets")
    (folder / "b" / "x.png").write_bytes((folder / "b" / "x.png").read_bytes()[:300])
    (folder / "c.mp4").write_bytes(b"\0\0\0\x18ftypisom" + bytes(500))
    (folder / "notes.txt").write_text("hello")
    (folder / "empty.mp4").touch()
    (folder / "page.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (tmp_path / "empty").mkdir()
    document = look(moving.Finder(), [folder, tmp_path / "empty"], tmp_path / "out")
    told = {Path(one["path"]).name: one.get("problem") for one in document["images"] + document["videos"]}
    assert "cut short" in told["x.png"]
    assert "without the index of its frames" in told["c.mp4"]
    assert told["notes.txt"] == "5 bytes of text that begin 'hello', neither an image nor a video"
    assert told["empty.mp4"] == "the file is empty"
    assert told["page.svg"].startswith("an SVG drawing; images are")
    assert "without files" in told["empty"]
    assert told["x.webp"] is None


def test_no_decoder_sees_what_is_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def opened(*args: Any, **options: Any) -> None:
        raise MemoryError

    (tmp_path / "x.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (tmp_path / "x.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (tmp_path / "y.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    monkeypatch.setattr("PIL.Image.open", opened)
    told = [source.problem for source in sources([tmp_path])]
    formats = "images are read from JPEG, PNG, WebP, BMP and GIF files"
    assert told == [f"a HEIC photograph; {formats}", f"an SVG drawing; {formats}", None]


def test_weights_whose_answers_are_no_numbers_are_told_of(moving: ModuleType, tmp_path: Path, clip: Path):
    finder = moving.Finder()
    right = finder.find

    def find(pixels: Any, procedure: Procedure | None = None) -> Found:
        found = right(pixels)
        return Found(found.boxes * float("nan"), found.labels, found.scores)

    finder.find = find
    document = look(finder, [pictures(moving, tmp_path / "pets"), clip], tmp_path / "out")
    assert all("not finite" in one["problem"] for one in document["images"] + document["videos"])


def test_only_what_is_sure_enough_is_told(moving: ModuleType, tmp_path: Path):
    folder = pictures(moving, tmp_path / "pets")
    document = look(moving.Finder(), [folder], tmp_path / "out", score=0.8)
    said = [one["probability"] for image in document["images"] for one in image["detections"]]
    assert said
    assert min(said) >= 0.8


def test_a_video_is_told_frame_by_frame_with_tracks(moving: ModuleType, tmp_path: Path, film: Path):
    document = look(moving.Finder(), [film], tmp_path / "out")
    (video,) = document["videos"]
    assert (video["size"], video["rate"], len(video["frames"])) == ([160, 120], 30.0, 300)
    tracks: dict[str, set[int | None]] = {}
    for number, frame in enumerate(video["frames"]):
        assert frame["frame"] == number
        assert frame["time"] == pytest.approx(number / 30, abs=1e-3)
        assert {one["class"] for one in frame["detections"]} == set(moving.places(number))
        for one in frame["detections"]:
            tracks.setdefault(one["class"], set()).add(one["track"])
    assert tracks == {"circle": {None, 1}, "star": {None, 2}, "square": {None, 3}}
    from residual.serve.video import Reader

    with Reader(tmp_path / "out" / video["video"]) as reader:
        assert (reader.rate, reader.stated) == (30.0, 300)
        shapes = {frame.pixels.shape for frame in reader}
    assert shapes == {(120, 160, 3)}


def test_the_table_has_the_rows_of_the_document(moving: ModuleType, tmp_path: Path, clip: Path):
    document = look(moving.Finder(), [pictures(moving, tmp_path / "pets"), clip], tmp_path / "out")
    expected = [(image["path"], "", "", one) for image in document["images"] for one in image["detections"]]
    for video in document["videos"]:
        for frame in video["frames"]:
            expected += [(video["path"], str(frame["frame"]), str(frame["time"]), one) for one in frame["detections"]]
    with (tmp_path / "out" / TABLE).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(expected) > 80
    for row, (path, frame, time, one) in zip(rows, expected, strict=True):
        assert (row["path"], row["frame"], row["time"], row["class"]) == (path, frame, time, one["class"])
        assert [float(row[side]) for side in ("left", "top", "right", "bottom")] == one["box"]
        assert float(row["probability"]) == one["probability"]
        assert row["track"] == ("" if one["track"] is None else str(one["track"]))


def test_wherever_it_is_interrupted_the_documents_are_the_same(moving: ModuleType, tmp_path: Path, clip: Path):
    paths = [pictures(moving, tmp_path / "pets"), clip, tmp_path / "pets" / "a"]
    look(moving.Finder(masks=True), paths, tmp_path / "whole")
    whole = {name: (tmp_path / "whole" / name).read_bytes() for name in (DOCUMENT, TABLE, JOURNAL)}
    for steps in (1, 30, 60):  # among the images, among the frames, while the video is drawn
        out = tmp_path / f"after {steps}"
        assert look(moving.Finder(masks=True), paths, out, steps=steps) is None
        (out / JOURNAL).write_bytes((out / JOURNAL).read_bytes() + b'{"kind":"im')  # a line that a kill has torn
        again = moving.Finder(masks=True)
        look(again, paths, out)
        assert {name: (out / name).read_bytes() for name in whole} == whole, steps
        assert again.seen == 44 - min(steps, 3) - min(max(steps - 4, 0), 40)
        assert not list(out.rglob(".*"))
        assert len(list(out.rglob("*.png"))) == 4


def test_a_finished_folder_has_nothing_left_to_look_at(moving: ModuleType, tmp_path: Path, clip: Path):
    finder = moving.Finder()
    look(finder, [clip], tmp_path / "out")
    seen = finder.seen
    look(finder, [clip], tmp_path / "out")
    assert finder.seen == seen == 40


def test_other_weights_images_or_options_are_not_mixed(moving: ModuleType, tmp_path: Path):
    folder = pictures(moving, tmp_path / "pets")
    look(moving.Finder(), [folder], tmp_path / "out", steps=1)
    other = moving.Finder()
    other.weight.data += 1
    with pytest.raises(ValueError, match=r"\(weights\)"):
        look(other, [folder], tmp_path / "out")
    with pytest.raises(ValueError, match=r"\(score\)"):
        look(moving.Finder(), [folder], tmp_path / "out", score=0.4)
    os.utime(folder / "a" / "x.png", (1, 1))
    with pytest.raises(ValueError, match=r"\(images\)"):
        look(moving.Finder(), [folder], tmp_path / "out")


def test_a_picture_that_changes_meanwhile_is_not_used(moving: ModuleType, tmp_path: Path):
    folder = pictures(moving, tmp_path / "pets")
    listed, finder = sources([folder]), moving.Finder()
    os.utime(folder / "b" / "x.png", (1, 1))
    (tmp_path / "out").mkdir()
    first = begun(finder.card, finder.state_dict(), listed, 0.5, Procedure())
    with Journal(tmp_path / "out" / JOURNAL, first) as journal:
        list(detect(finder, listed, journal, score=0.5, procedure=Procedure(), workers=1))
        counted = tally(journal)
    assert (counted.pictures, counted.bad) == (2, 1)
    assert "changed" in str(counted.problem)


def test_frames_that_do_not_come_evenly_are_noted(moving: ModuleType, tmp_path: Path, clip: Path, monkeypatch):
    iterate = serving.Reader.__iter__

    def late(self):
        for frame in iterate(self):
            yield type(frame)(frame.number, frame.time + (0.5 if frame.number > 20 else 0), frame.pixels)

    monkeypatch.setattr(serving.Reader, "__iter__", late)
    (video,) = look(moving.Finder(), [clip], tmp_path / "out")["videos"]
    assert video["notes"] == ["its frames do not come evenly; the drawn video shows them evenly, off by up to 0.50 s"]
    assert video["frames"][30]["time"] == pytest.approx(1.5, abs=1e-3)


def test_a_folder_without_images_is_refused(tmp_path: Path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("hello")
    with pytest.raises(ValueError, match="no image and no video"):
        sources([tmp_path / "notes"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="a folder without files"):
        sources([tmp_path / "empty"])


def test_of_other_files_the_first_three_are_told_and_the_formats_once(tmp_path: Path):
    (tmp_path / "a.jpg").touch()
    (tmp_path / "b.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    formats = r"\.  Images are JPEG, PNG, WebP, BMP and GIF files, videos [\w, ]+$"
    with pytest.raises(ValueError, match=rf"b\.svg': an SVG drawing{formats}"):
        sources([tmp_path / "b.svg"])
    some = r"': a\.jpg: the file is empty; b\.svg: an SVG drawing"
    with pytest.raises(ValueError, match=some + formats):
        sources([tmp_path])
    for name, others in (("c", ""), ("d", "; and 1 other"), ("e", "; and 2 others")):
        (tmp_path / name).write_text("a; b")
        with pytest.raises(ValueError, match=rf"{some}; c: 4 bytes of text that begin 'a; b'[\w, ]+{others}{formats}"):
            sources([tmp_path])


def test_the_improved_procedure_is_table_9s_at_the_papers_size():
    assert improved(Procedure()) == IMPROVED
    assert improved(Procedure(side=96, longest=160)).sides == (32, 64, 96, 128, 160)


def test_the_improved_procedure_of_images_that_are_not_shrunk_goes_with_them():
    windows = improved(Procedure(side=512, longest=4000, shrink=False))
    assert windows.sides_of(512, 700) == (171, 341, 512, 683, 853)
    height = 1040
    assert windows.side_of(height, 1388) == height
    for side, papers in zip(windows.sides_of(height, 1388), IMPROVED.sides, strict=True):
        assert side / height == pytest.approx(papers / IMPROVED.side, abs=2e-3)
    assert improved(Procedure(side=2048, longest=16_000)).widest == 16_384
