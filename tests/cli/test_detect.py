"""residual detect: what is on images and videos, whatever happens meanwhile."""

import fcntl
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image

from residual.cli.detect import LiveLine
from residual.detect.card import DetectorCard, card_of
from residual.detect.procedure import Procedure
from residual.pipeline import Stop
from residual.serve.answers import FrameAnswer, VideoBegin
from residual.serve.detect import Source, Step

MOVING = Path(__file__).parents[1] / "serve" / "moving.py"
HERE = ("--device", "cpu", "--workers", "0")
NAMES = ("detections.json", "detections.csv", "detections.jsonl")


@pytest.fixture(scope="session")
def moving() -> ModuleType:
    """The drawn video and what finds its shapes."""
    told = importlib.util.spec_from_file_location("moving", MOVING)
    assert told is not None
    assert told.loader is not None
    module = importlib.util.module_from_spec(told)
    told.loader.exec_module(module)
    return module


@pytest.fixture
def shapes(moving: ModuleType, quiet_place: Path) -> Path:
    """Three pictures, two of one name."""
    for place, number in (("a/x.png", 0), ("b/x.png", 150), ("b/y.png", 250)):
        (quiet_place / "shapes" / place).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(moving.frame(number)).save(quiet_place / "shapes" / place)
    return quiet_place / "shapes"


@pytest.fixture
def finder(moving: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Any:
    """In place of whatever weights are named."""
    found = moving.Finder()
    monkeypatch.setattr("residual.detect.weights.load", lambda source: found)
    monkeypatch.setattr("residual.cli.detect._refuse_classifier", lambda weights: None)
    return found


@pytest.fixture(scope="session")
def film(moving: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first half of the video.  Not to be written to."""
    return moving.video(tmp_path_factory.mktemp("film") / "film.mp4", 150)


def test_images_are_told_drawn_and_listed(say: Callable[..., Any], finder: Any, shapes: Path):
    said = say("detect", "w", "shapes", *HERE)
    assert (said.code, said.err) == (0, "")
    assert said.out.splitlines()[1] == "shapes/b/x.png: circle 92 %, star 84 %, square 73 %"
    assert said.out.splitlines()[-1].startswith("7 objects on 3 pictures.")
    out = Path("detections/shapes")
    assert sorted(path.name for path in out.iterdir()) == ["detections.csv", *NAMES[::2], "pictures"]
    assert len(list(out.rglob("*.png"))) == 3
    assert len(json.loads((out / "detections.json").read_text())["images"]) == 3


def test_json_lines_are_those_of_the_journal(say: Callable[..., Any], finder: Any, shapes: Path, film: Path):
    short = Path("short.mp4")
    short.write_bytes(film.read_bytes())
    said = say("detect", "w", "shapes", short, "--json", "--out", "out", *HERE)
    assert said.code == 0
    assert said.out.splitlines() == Path("out/detections.jsonl").read_text().splitlines()[1:]


def test_what_cannot_be_read_is_named_and_the_rest_is_answered(say: Callable[..., Any], finder: Any, shapes: Path):
    bad = shapes / "a" / "x.png"
    bad.write_bytes(bad.read_bytes()[:60])
    said = say("detect", "w", "shapes", *HERE)
    assert said.code == 1
    assert said.out.startswith("shapes/a/x.png: not used: ")
    assert "; 1 could not be used." in said.out
    assert said.err == ""


def test_where_nothing_was_sure_enough_the_last_lines_say_how_sure_it_was(
    say: Callable[..., Any], finder: Any, shapes: Path
):
    said = say("detect", "w", "shapes", "--score", "0.93", "--out", "high", *HERE).out.splitlines()
    assert said[0] == "shapes/a/x.png: nothing found (surest: circle 91.5 %)"
    assert said[-2].startswith("Nothing was as sure as 93 %; the surest there was circle with")
    assert said[-1] == "Next: residual detect w shapes --score 0.9 --device cpu --out high-0.9"
    again = say("detect", "w", "shapes", "--score", "0.93", "--out", "high", "--resume", *HERE).out.splitlines()
    assert again[-1] == "Nothing was as sure as 93 %; a lower --score tells more."
    said = say(*said[-1].removeprefix("Next: residual ").split(), "--workers", "0")
    assert said.out.splitlines()[-1].startswith("3 objects on 3 pictures.")
    Image.new("RGB", (160, 120)).save(shapes / "a" / "black.png")
    said = say("detect", "w", "shapes", "--score", "0.8", "--out", "some", *HERE).out.splitlines()
    assert said[0] == "shapes/a/black.png: nothing found"
    assert said[-1].startswith("On 1 of 4 images nothing was as sure as 80 %, nor as sure as anything")


def test_after_an_interruption_no_answer_is_called_the_surest(say: Callable[..., Any], finder: Any, shapes: Path):
    words = ("detect", "w", "shapes", "--score", "0.93", "--out", "out", *HERE)
    assert "; the surest there was circle" in say(*words).out
    journal = Path("out/detections.jsonl")
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:2]))  # of the first image
    *lines, last = say(*words, "--resume").out.splitlines()
    assert [line.split(":")[0] for line in lines[:2]] == ["shapes/b/x.png", "shapes/b/y.png"]
    assert last == "Nothing was as sure as 93 %; a lower --score tells more."


def test_of_images_the_surest_is_an_images_and_where_nothing_was_found_that_of_all(
    say: Callable[..., Any], finder: Any, shapes: Path, moving: ModuleType
):
    moving.video(Path("short.mp4"), 2)
    right, scales = finder.find, [1.0, 0.3, 0.4, 0.4]  # of two images and two frames

    def find(pixels: Any, procedure: Any = None) -> Any:
        found = right(pixels)
        return replace(found, scores=found.scores * scales[(finder.seen - 1) % 4])

    finder.find = find
    for score, said in (("0.5", "On 1 of 2 images nothing was as sure as 50 %; the surest there was circle with 27."),
                        ("0.95", "Nothing was as sure as 95 %; the surest there was circle with 91.")):  # fmt: skip
        told = say("detect", "w", "shapes/b", "short.mp4", "--score", score, "--out", score, *HERE).out.splitlines()
        assert told[-2].startswith(said)
    scales[0] = 0.3
    told = say("detect", "w", "shapes/b", "short.mp4", "--out", "low", *HERE).out.splitlines()
    assert told[-2].startswith("Nothing was as sure as 50 %; the surest there was circle with 36.")


def test_where_score_removes_guesses_of_a_localizer_the_rest_are_counted(
    say: Callable[..., Any], finder: Any, quiet_place: Path, moving: ModuleType
):
    (quiet_place / "three").mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(moving.frame(150)).save(quiet_place / "three" / name)
    finder.card = a_localizer()
    ends = {
        "0": "The 3 likeliest classes, with a box for each, the first of them drawn, on 2 pictures.",
        "0.8": "4 answers on 2 pictures.",
        "0.93": "0 answers on 2 pictures.",
    }
    for score, end in ends.items():
        told = say("detect", "w", "three", "--score", score, "--out", f"o{score}", *HERE).out.splitlines()
        assert told[2].startswith(end)
    assert told[0] == "three/a.png: nothing found (first guess: circle 91.5 %)"
    assert told[-2].startswith("No first guess was as sure as 93 %; the surest there was circle with 91.5 %.")


def test_what_a_localizer_answers_is_told_as_guesses_at_one_class(say: Callable[..., Any], shapes: Path):
    localizer()
    said = say("detect", "w.safetensors", "shapes", "--out", "out", *HERE)
    assert (said.code, said.err) == (0, "")
    *lines, found, hint = said.out.splitlines()
    assert all(re.fullmatch(r"shapes/\w/\w\.png: one of (\w+ \d+ %, ){2}\w+ \d+ %", line) for line in lines)
    assert found.startswith("The 3 likeliest classes, with a box for each, the first of them drawn, on 3 pictures.")
    assert hint.endswith("--classes RUN")
    images = json.loads(Path("out/detections.json").read_text())["images"]
    assert all(sorted(one["class"] for one in image["detections"]) == ["circle", "square", "star"] for image in images)


def test_a_classifier_tells_a_localizer_the_classes_to_place(say: Callable[..., Any], shapes: Path):
    from residual.data.transforms import Preprocessing
    from residual.models.catalog import describe
    from residual.models.resnet import ResNet
    from residual.weights import safetensors
    from residual.weights.card import Card

    localizer()
    net = ResNet(replace(describe("resnet8"), classes=3))
    with torch.no_grad():
        net.classifier.weight.zero_()
        net.classifier.bias.copy_(torch.tensor([0.0, 2.0, 1.0]))  # whatever it sees
    classes = ("circle", "star", "square")
    card = Card(name="resnet8", model=net.description, classes=classes, preprocessing=Preprocessing(size=32))
    safetensors.save("c.safetensors", net.state_dict(), card)
    said = say("detect", "w.safetensors", "shapes", "--classes", "c.safetensors", "--out", "out", *HERE)
    assert (said.code, said.err) == (0, "")
    *lines, found = said.out.splitlines()
    assert found.startswith("The 3 likeliest classes")
    assert all(re.search(r": one of star \(box \d+ %\), square \(box .*, circle \(box ", line) for line in lines)
    for words, part in ((("--classes", "c.safetensors"), "--resume"), ((), "(weights)")):
        said = say("detect", "w.safetensors", "shapes", *words, "--out", "out", "--resume", *HERE)
        assert said.code == (0 if words else 2), part


def localizer() -> None:
    """w.safetensors: a small localizer of random weights."""
    from residual.detect.detector import Detector
    from residual.detect.weights import save

    torch.manual_seed(0)
    card = a_localizer()
    save("w.safetensors", Detector(card).net.state_dict(), card)


def a_localizer() -> DetectorCard:
    """Of a small localizer."""
    from residual.detect.catalog import describe_detector

    classes = ("circle", "star", "square")
    return card_of(
        describe_detector("localizer_small", classes, side=64),
        name="localizer_small",
        classes=classes,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        procedure=Procedure(side=64, longest=128),
    )


def test_a_detector_of_ours_is_used_as_it_is(say: Callable[..., Any], shapes: Path):
    from residual.detect.catalog import describe_detector
    from residual.detect.detector import Detector
    from residual.detect.weights import save

    torch.manual_seed(0)
    classes = ("circle", "star")
    card = card_of(
        describe_detector("mask_rcnn_small_c4", classes, side=96, anchors=(24.0, 48.0)),
        name="mask_rcnn_small_c4",
        classes=classes,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        procedure=Procedure(side=96, longest=160),
    )
    detector = Detector(card).eval()
    save("w.safetensors", detector.net.state_dict(), card)
    for protocol in ("plain", "improved"):
        said = say(
            "detect", "w.safetensors", "shapes", "--score", "0", "--out", protocol, "--protocol", protocol, *HERE
        )
        assert (said.code, said.err) == (0, "")
        document = json.loads(Path(protocol, "detections.json").read_text())
        assert document["procedure"]["refined"] == (protocol == "improved")
        found = [one for image in document["images"] for one in image["detections"]]
        assert found
        assert all(one["mask"]["size"] == [120, 160] and sum(one["mask"]["counts"]) == 120 * 160 for one in found)


WRONG = {  # what is wrong: the command, and what the answer must say
    "no such file": (("w", "nowhere.jpg"), ["no 'nowhere.jpg'", "videos"]),
    "standard input": (("w", "-"), ["no '-'"]),
    "a folder without images": (("w", "notes"), ["no image and no video in 'notes'", "JPEG"]),
    "an empty folder": (("w", "empty"), ["a folder without files"]),
    "a broken video": (
        ("w", "broken.mp4"),
        ["nothing could be read of broken.mp4: MP4, 512 bytes, without the index of its frames (moov)"],
    ),
    "an empty video": (("w", "empty.mp4"), ["no image and no video in 'empty.mp4': the file is empty. Images are"]),
    "a text called a video": (("w", "text.mp4"), ["'text.mp4': 5 bytes of text that begin 'hello', neither an image"]),
    "other files": (("w", "notes", "odd"), ["a.txt: 5 bytes of text", "; odd: 9 bytes that begin ff 00 ff"]),
    "a classifier for a detector": (("w", "shapes", "--classes", "w"), ["by_colour finds its classes itself"]),
    "a broken image": (("w", "broken.png"), ["nothing could be read of broken.png", "cut short"]),
    "an --out that exists": (("w", "shapes", "--out", "notes"), ["notes exists", "--resume", "another folder"]),
    "an --out that is a file": (("w", "shapes", "--out", "w"), ["w exists"]),
    "an --out in a file": (("w", "shapes", "--out", "w/x"), ["w/x"]),
    "an --out among the images": (("w", "shapes", "--out", "shapes/found"), ["shapes/found lies in shapes"]),
    "the default among the images": (("w", "."), ["lies in .", "--out"]),
    "nothing to go on with": (("w", "shapes", "--out", "notes", "--resume"), ["nothing to go on with", "--resume out"]),
    "other images": (("w", "shapes/a", "--out", "begun", "--resume"), ["other settings (images)", "--out"]),
    "another score": (("w", "shapes", "--out", "begun", "--score", "0.2", "--resume"), ["other settings (score)"]),
    "a score beyond all": (("w", "shapes", "--score", "50"), ["--score", "equal to 1"]),
    "another protocol": (("w", "shapes", "--protocol", "best"), ["--protocol", "improved"]),
}


@pytest.mark.parametrize("words, parts", WRONG.values(), ids=WRONG)
def test_a_wrong_command_is_told_in_a_paragraph(
    say: Callable[..., Any], finder: Any, shapes: Path, words: tuple[str, ...], parts: list[str]
):
    Path("w").write_text("whatever")
    Path("notes").mkdir()
    Path("notes/a.txt").write_text("hello")
    Path("empty").mkdir()
    Path("broken.mp4").write_bytes(b"\0\0\0\x18ftypisom" + bytes(500))
    Path("empty.mp4").touch()
    Path("text.mp4").write_text("hello")
    Path("odd").write_bytes(b"\xff\0\xff" * 3)
    Path("broken.png").write_bytes((shapes / "a" / "x.png").read_bytes()[:100])
    if "begun" in words:
        say("detect", "w", "shapes", "--out", "begun", *HERE)
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    said = say("detect", *words, *HERE)
    assert said.code == 2
    told = " ".join(said.err.split())
    assert told.startswith("error: ")
    for part in parts:
        assert part in told
    assert "Traceback" not in said.err
    assert {path: path.read_bytes() for path in before} == before


def test_a_classifier_is_sent_to_predict(say: Callable[..., Any], trained: Path, shapes: Path):
    said = say("detect", trained, "shapes", *HERE)
    assert said.code == 2
    assert f"is a classifier, which finds no boxes; use: residual predict {trained}" in " ".join(said.err.split())
    assert not Path("detections").exists()


def test_a_video_without_the_extra_is_told(
    say: Callable[..., Any], finder: Any, film: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "cv2", None)
    said = say("detect", "w", film, *HERE)
    assert said.code == 2
    assert "pip install 'residual[video]'" in said.err
    assert not Path("detections").exists()


# --- ends that nobody planned ----------------------------------------------------------------------------------


@pytest.fixture
def run(quiet_place: Path) -> Any:
    """run("shapes", "--out", "out"): the program in a process of its own, 10 ms for every image."""
    started = []

    def program(*words: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, str(MOVING), "detect", "w", *map(str, words), *HERE],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"SLOW": "0.01"},
            start_new_session=True,
        )
        started.append(process)
        return process

    yield program
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def wait_for(path: Path, lines: int) -> None:
    until = time.monotonic() + 60
    while not path.exists() or path.read_bytes().count(b"\n") < lines:
        assert time.monotonic() < until
        time.sleep(0.01)


def test_kills_and_ctrl_c_lose_nothing_that_was_said(
    say: Callable[..., Any], run: Callable[..., Any], finder: Any, shapes: Path, film: Path
):
    assert say("detect", "w", "shapes", film, "--out", "whole", *HERE).code == 0
    words = ("shapes", film, "--out", "out", "--resume")
    journal = Path("out/detections.jsonl")
    process = run(*words[:-1])
    wait_for(journal, 30)
    process.kill()
    process.wait()
    said = journal.read_bytes()
    said = said[: said.rindex(b"\n") + 1]
    process = run(*words)
    wait_for(journal, 70)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does it: to the processes that decode as well
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")
    assert f"residual detect w shapes {film} --device cpu --out out --resume" in out
    assert journal.read_bytes().startswith(said)
    assert journal.read_bytes().count(b"\n") < 150
    assert not Path("out/detections.json").exists()
    assert say("detect", "w", *words, *HERE).code == 0
    for name in NAMES:
        assert Path("out", name).read_bytes() == Path("whole", name).read_bytes(), name
    assert Path("out/film.mp4").stat().st_size == Path("whole/film.mp4").stat().st_size
    assert not list(Path("out").rglob(".*"))


def test_a_second_one_in_the_same_folder_is_refused(say: Callable[..., Any], finder: Any, shapes: Path):
    assert say("detect", "w", "shapes", "--out", "out", *HERE).code == 0
    with Path("out/detections.jsonl").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        said = say("detect", "w", "shapes", "--out", "out", "--resume", *HERE)
    assert said.code == 2
    assert "another process is writing to out" in " ".join(said.err.split())


def test_the_time_left_is_that_of_the_frames_under_way(monkeypatch: pytest.MonkeyPatch):
    now = 100.0
    monkeypatch.setattr("residual.cli.detect.time.monotonic", lambda: now)
    line, video = LiveLine(Stop()), Source(name="x.mp4", kind="video")
    entry = FrameAnswer(frame=0, time=0.0, detections=[])
    line.saw(Step(number=0, source=video, entry=VideoBegin(path="x.mp4"), done=0, total=None))
    for done in range(1, 60):
        now += 60.0 if done == 1 else 2.0  # the first warms things up
        line.saw(Step(number=0, source=video, entry=entry, done=done, total=100))
    assert line.text() == "x.mp4: frame 59 of 100; 1 min 22 s left"
    now += 10
    assert line.left() == pytest.approx(72)
    line.saw(Step(number=0, source=video, entry=None, done=1, total=100))
    assert line.text() == "x.mp4: drawing frame 1 of 100"  # nothing is known of it yet
    for done in (50, 51, 52):  # gone on with at frame 49: those before took no time
        now += 3
        line.saw(Step(number=1, source=video, entry=entry, done=done, total=60))
    assert line.left() == pytest.approx(24)
    line.saw(Step(number=1, source=video, entry=entry, done=53, total=None))
    assert line.text() == "x.mp4: frame 53"
