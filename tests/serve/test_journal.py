"""The journal: what was said stays said, whatever end the process finds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from residual.serve.journal import Journal

FIRST = {"weights": "abc", "score": 0.5}
LINES = [b'{"a":1}', b'{"b":[2]}', b'{"c":3}']


def written(path: Path) -> list[bytes]:
    with Journal(path, FIRST) as journal:
        for line in LINES:
            journal.append(line)
        return list(journal.lines())


def test_lines_come_back_and_are_added_to(tmp_path: Path):
    lines = written(tmp_path / "j")
    assert lines[1:] == LINES
    with Journal(tmp_path / "j", FIRST) as journal:
        assert journal.length == (tmp_path / "j").stat().st_size
        place = journal.length
        journal.append(b'{"d":4}')
        assert list(journal.lines()) == [*lines, b'{"d":4}']
        assert list(journal.lines(place)) == [b'{"d":4}']


def test_a_torn_journal_keeps_every_whole_line_wherever_it_is_torn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # be quick
    lines = written(tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    for end in range(len(whole) + 1):
        for rest in (b"", b"\0" * 9, *([b"\0\0\n\0"] if end > 11 else [])):
            torn = tmp_path / "torn"
            torn.write_bytes(whole[:end] + rest)
            with Journal(torn, FIRST) as journal:
                kept = list(journal.lines())
            assert kept == lines[: max(1, whole[:end].count(b"\n"))], (end, rest)  # the first is written anew


@pytest.mark.parametrize("changed, said", [({"score": 0.4}, "score"), ({"weights": "x", "score": 0}, "weights, score")])
def test_a_journal_is_not_gone_on_with_under_other_settings(tmp_path: Path, changed: dict[str, object], said: str):
    written(tmp_path / "j")
    before = (tmp_path / "j").read_bytes()
    with pytest.raises(ValueError, match=f"other settings \\({said}\\).*same weights"):
        Journal(tmp_path / "j", FIRST | changed)
    assert (tmp_path / "j").read_bytes() == before


@pytest.mark.parametrize("foreign", [b"{}\n", b"my notes", b'{"json', b"\n", bytes(99)])
def test_a_file_of_somebody_else_is_left_alone(tmp_path: Path, foreign: bytes):
    (tmp_path / "j").write_bytes(foreign)
    with pytest.raises(ValueError, match="no journal of ours"):
        Journal(tmp_path / "j", FIRST)
    assert (tmp_path / "j").read_bytes() == foreign


def test_a_second_process_is_refused_until_the_first_has_gone(tmp_path: Path):
    code = (
        "import sys, pathlib; from residual.serve.journal import Journal\n"
        f"journal = Journal(pathlib.Path(sys.argv[1]), {FIRST!r}); print('mine', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "j")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    with other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"mine\n"
        with pytest.raises(ValueError, match="another process is writing"):
            Journal(tmp_path / "j", FIRST)
        other.kill()
    written(tmp_path / "j")
