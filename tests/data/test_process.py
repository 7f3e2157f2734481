import os
import signal
import time
from collections.abc import Iterator

import msgspec
import pytest

from residual.data.decode import View
from residual.data.process import Process
from residual.data.worker import LENGTH, Answer, Ask, Request, pack, unwrap


@pytest.fixture
def process() -> Iterator[Process]:
    started = Process(windows=False)
    yield started
    started.end()


def hear(process: Process, count: int) -> list[Answer]:
    """Its next answers; all it has to say where it ends before."""
    heard, until = [], time.monotonic() + 30
    while len(heard) < count and time.monotonic() < until:
        process.push()
        open_ = process.pull()
        heard += map(unwrap, process.messages())
        if not open_:
            break
        time.sleep(0.005)
    return heard


def test_it_says_that_it_is_ready_and_answers_for_each_file_in_turn(process):
    asked = [Ask(None, refused="no such row"), Ask(b"/nowhere"), Ask(None, b"no picture")]
    process.ask(pack(msgspec.msgpack.encode(Request(View(), asked))))
    assert process.owed
    ready, *answers = hear(process, 4)
    assert not process.owed
    assert ready == Answer()
    assert [answer.refused is not None for answer in answers] == [True] * 3
    assert answers[0].refused == "no such row"
    assert process.begun == 3


def test_how_it_ended_is_told_in_words(process):
    hear(process, 1)
    os.kill(process.pid, signal.SIGSEGV)
    assert hear(process, 1) == []
    process.end(patience=5)
    assert (process.exit_code, process.ending) == (-signal.SIGSEGV, "was ended by SIGSEGV")


def test_one_that_does_not_end_by_itself_is_killed(process):
    hear(process, 1)
    process.end(patience=0.1)
    assert process.ending == "was ended by SIGKILL"


def test_what_is_written_to_one_that_is_gone_is_dropped(process):
    hear(process, 1)
    os.kill(process.pid, signal.SIGKILL)
    hear(process, 1)
    process.ask(pack(b"?"))
    assert not process.push()
    assert not process.owed


def test_a_message_longer_than_any_answer_is_refused(process):
    hear(process, 1)
    process._incoming += LENGTH.pack(1 << 40)
    with pytest.raises(ValueError, match="too long"):
        next(process.messages())
