import shlex
import signal
import sys
from pathlib import Path

import pytest

from residual.cli.terminal import clock, listen, next_step, printable, refuse_new_file, refuse_new_folder, working
from residual.pipeline import Stop


def test_control_characters_are_escaped_and_all_other_text_stays():
    assert printable("café 漢字 été.png") == "café 漢字 été.png"
    assert printable("\x1b[2J\r\n\x07.png") == "\\x1b[2J\\r\\n\\x07.png"
    assert printable("bad\udcff.png") == "bad\\udcff.png"
    assert printable("right\u202eleft") == "right\\u202eleft"  # would turn the line around


@pytest.mark.parametrize("folder", ["runs/resnet20", "my run", "it's", "$HOME", "-dash"])
def test_the_next_command_can_be_copied_whatever_the_folder_is_called(folder: str):
    line = next_step("train", "--resume", "--out", Path(folder))
    assert shlex.split(line.removeprefix("Next: ")) == ["residual", "train", "--resume", "--out", folder]


@pytest.mark.parametrize(
    "seconds, text",
    [
        (-3, "0 s"),
        (8.2, "8 s"),
        (59.7, "1 min 00 s"),
        (723, "12 min 03 s"),
        (3599.6, "1 h 00 min"),
        (8047, "2 h 14 min"),
    ],
)
def test_durations_are_read_at_a_glance(seconds: float, text: str):
    assert clock(seconds) == text


def test_waiting_is_silent_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]):
    with working("reading the images") as progress:
        progress(1, 2)
    assert capsys.readouterr() == ("", "")


def test_waiting_is_visible_in_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    with working("reading the images") as progress:
        progress(1, 2)
    written = capsys.readouterr()
    assert written.out == ""
    assert "reading the images" in written.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_ends(number: int):
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    stop = Stop()
    try:
        listen(stop)
        signal.raise_signal(number)
        assert stop.signal == number
        with pytest.raises(SystemExit) as end:
            signal.raise_signal(number)
        assert end.value.code == 128 + number
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def test_a_new_file_needs_a_folder_and_a_name_of_its_own(tmp_path: Path):
    refuse_new_file(tmp_path / "new")
    (tmp_path / "old").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name, words in (("old", "not overwritten"), ("dangling", "not overwritten"), ("no/new", "make it first")):
        with pytest.raises(ValueError, match=words):
            refuse_new_file(tmp_path / name)


def test_a_new_run_needs_a_place_that_can_be_made(tmp_path: Path):
    refuse_new_folder(tmp_path / "a" / "b" / "c")
    refuse_new_folder(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "run.json").touch()
    for place, words in (
        ("file", "is a file"),
        ("file/x/y", "is a file"),
        ("dangling", "is a file"),
        ("", "already holds"),
    ):
        with pytest.raises(ValueError, match=words):
            refuse_new_folder(tmp_path / place)
