import subprocess
import sys

import msgspec
import pytest

from residual.data.decode import View
from residual.data.worker import SLOT, SLOTS, Answer, Ask, answer, unwrap


def test_a_decoding_process_does_not_import_torch():
    code = "import sys, residual.data.worker; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_answer_says_what_was_found_before_the_view(draw, tmp_path):
    data = draw(tmp_path / "a.png", size=(50, 20)).read_bytes()
    reply = answer(Ask(None, data), View(size=8, resize=8))
    assert (reply.shape, reply.found, len(reply.pixels)) == ((8, 8, 3), (50, 20), 192)
    assert reply.refused is None


def test_an_answer_that_contradicts_itself_is_not_believed():
    good = Answer(shape=(2, 2, 3), pixels=bytes(12))
    assert unwrap(msgspec.msgpack.encode(good)) == good
    for bad in (Answer(shape=(2, 2, 3), pixels=bytes(11)), Answer(shape=(-1, -1, 3), pixels=bytes(3))):
        with pytest.raises(ValueError, match="announced"):
            unwrap(msgspec.msgpack.encode(bad))
    with pytest.raises(msgspec.MsgspecError):
        unwrap(b"\xc1")


def test_pixels_in_the_tray_are_announced_within_its_bounds():
    there = Answer(shape=(2, 2, 3), slot=SLOTS - 1)
    assert unwrap(msgspec.msgpack.encode(there)) == there
    for bad in (
        Answer(shape=(2, 2, 3), slot=SLOTS),
        Answer(shape=(2, 2, 3), slot=-1),
        Answer(shape=(SLOT, 1, 3), slot=0),
        Answer(shape=(-1, -2, 3), slot=0),
    ):
        with pytest.raises(ValueError):
            unwrap(msgspec.msgpack.encode(bad))
