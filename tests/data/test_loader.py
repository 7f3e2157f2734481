import os
import random
import signal
import threading
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from residual.data.decode import BadImage, View
from residual.data.loader import File, Pool

WHOLE = View()
POISON = """
import os, signal, time
import residual.data.decode as decode

read = decode.read
def poisoned(whole, **named):
    path = os.path.basename(whole)
    if b"kills" in path:
        os.kill(os.getpid(), signal.SIGKILL)
    if b"stops" in path:
        os.kill(os.getpid(), signal.SIGSTOP)
    if b"spins" in path:
        while True:
            pass
    if b"once" in path and not os.path.exists(whole + b".seen"):
        open(whole + b".seen", "w").close()
        os.kill(os.getpid(), signal.SIGSEGV)
    if b"eats" in path:
        return bytes(600 << 20)
    if b"prints" in path:
        os.write(1, b"a library that talks")
    return read(whole, **named)
decode.read = poisoned
"""


@pytest.fixture
def poison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding processes that die, hang or spin at files whose names say so."""
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(POISON)
    monkeypatch.syspath_prepend(tmp_path / "hook")


@pytest.fixture
def files(tmp_path: Path) -> list[File]:
    """A hundred pictures; the first pixel tells the number."""
    made = []
    for number in range(100):
        path = tmp_path / f"{number:03}.png"
        Image.fromarray(np.full((4, 4, 3), number, np.uint8)).save(path)
        made.append(File(name=path.name, path=os.fsencode(path)))
    return made


def rename(file: File, name: str) -> File:
    path = Path(os.fsdecode(file.path))
    path.rename(path.with_name(name))
    return File(name=name, path=os.fsencode(path.with_name(name)))


def numbers(results) -> list[object]:
    return [result.pixels if isinstance(result.pixels, BadImage) else int(result.pixels[0, 0, 0]) for result in results]


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_order_is_that_of_the_request_at_any_number_of_workers(files, workers):
    with Pool(workers=workers) as pool:
        assert numbers(pool.decode(files, WHOLE)) == list(range(100))
        assert numbers(pool.decode(reversed(files), WHOLE)) == list(range(99, -1, -1))
        assert pool.notes == []


def test_bytes_are_decoded_like_files_and_large_ones_pass(files):
    pixels = np.random.default_rng(0).integers(0, 256, (700, 900, 3), np.uint8)
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "BMP")
    large = [File(name=f"large {number}", data=buffer.getvalue()) for number in range(6)]
    with Pool(workers=1) as pool:
        for result in pool.decode(large, WHOLE):
            assert (result.pixels == pixels).all()
            assert result.found == (900, 700)


def test_only_so_much_is_decoded_ahead(files):
    taken = 0

    def counted():
        nonlocal taken
        for file in files:
            taken += 1
            yield file

    with Pool(workers=1) as pool:
        results = pool.decode(counted(), WHOLE, window=32)
        next(results)
        time.sleep(0.2)
        assert taken <= 48
        results.close()


def test_a_pool_that_was_left_half_way_starts_afresh(files):
    with Pool(workers=2) as pool:
        results = pool.decode(files, WHOLE)
        assert numbers([next(results)]) == [0]
        results.close()
        assert numbers(pool.decode(files[50:], WHOLE)) == list(range(50, 100))


def test_two_readers_of_one_pool_are_refused(files):
    with Pool(workers=1) as pool:
        first = pool.decode(files, WHOLE)
        next(first)
        with pytest.raises(RuntimeError, match="a pool of its own"):
            next(pool.decode(files, WHOLE))
        first.close()


def test_a_damaged_file_is_a_bad_image_in_its_place(files, tmp_path):
    Path(os.fsdecode(files[7].path)).write_bytes(b"nothing")
    for workers in (0, 2):
        with Pool(workers=workers) as pool:
            seen = numbers(pool.decode(files, WHOLE))
        assert isinstance(seen[7], BadImage)
        assert seen[:7] + seen[8:] == [*range(7), *range(8, 100)]


def test_a_process_that_dies_is_named_and_its_files_are_decoded_again(files, poison):
    files[40] = rename(files[40], "once.png")
    with Pool(workers=2) as pool:
        assert numbers(pool.decode(files, WHOLE)) == list(range(100))
        (note,) = pool.notes
    assert "SIGSEGV" in note
    assert "once.png" in note


def test_a_file_that_kills_twice_is_a_bad_image_and_nobody_else_suffers(files, poison):
    for number in (3, 4, 70):
        files[number] = rename(files[number], f"{number} kills.png")
    with Pool(workers=2) as pool:
        seen = numbers(pool.decode(files, WHOLE))
        notes = list(pool.notes)
    for number in (3, 4, 70):
        assert "SIGKILL" in str(seen[number])
    assert [one for one in seen if not isinstance(one, BadImage)] == [
        number for number in range(100) if number not in (3, 4, 70)
    ]
    assert len(notes) == 6
    assert all("kills.png" in note for note in notes)


def test_a_process_that_falls_silent_is_found_and_replaced(files, poison):
    files[10] = rename(files[10], "stops.png")
    began = time.monotonic()
    with Pool(workers=2, silence=0.5) as pool:
        seen = numbers(pool.decode(files, WHOLE))
        assert "did not answer" in str(seen[10])
        assert all("stops.png" in note for note in pool.notes)
    assert time.monotonic() - began < 10
    assert seen[:10] + seen[11:] == [*range(10), *range(11, 100)]


def test_a_file_that_takes_more_than_two_seconds_or_512_mb_is_refused(files, poison):
    files[1] = rename(files[1], "spins.png")
    files[2] = rename(files[2], "eats.png")
    with Pool(workers=1) as pool:
        seen = numbers(pool.decode(files[:4], WHOLE))
    assert seen[0] == 0
    assert "2 s of processor time" in str(seen[1])
    assert "memory" in str(seen[2])
    assert seen[3] == 3


def test_what_a_library_prints_does_not_disturb(files, poison):
    files[5] = rename(files[5], "prints.png")
    with Pool(workers=1) as pool:
        assert numbers(pool.decode(files, WHOLE)) == list(range(100))


def test_a_slow_reader_is_no_reason_to_think_that_a_process_hangs(files):
    with Pool(workers=1, silence=0.5) as pool:
        results = pool.decode(files * 4, WHOLE, window=32)
        next(results)
        time.sleep(1.2)
        assert len(list(results)) == 399
        assert pool.notes == []


def test_processes_that_cannot_start_are_an_error_with_a_way_out(files, tmp_path, monkeypatch):
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text("import os; os._exit(9)")
    monkeypatch.syspath_prepend(tmp_path / "hook")
    with Pool(workers=1) as pool, pytest.raises(RuntimeError, match=r"do not start .*workers=0"):
        list(pool.decode(files, WHOLE))


def kill_at_random(files: list[File], times: int, how: signal.Signals, seed: int) -> tuple[list[object], Pool]:
    """Decode while a thread kills or stops a random process every so often."""
    rng, done = random.Random(seed), threading.Event()
    pool = Pool(workers=2, silence=1.0)
    seen: list[object] = []

    def strike() -> None:
        left = times
        while left and not done.is_set():
            time.sleep(rng.uniform(0.2, 0.5))
            if team := pool.processes:
                with_pid = rng.choice(team)
                try:
                    os.kill(with_pid, how)
                    left -= 1
                    passed = len(seen) + 2 * len(files)  # a file that ends two processes is bad: not the same one twice
                    while how is signal.SIGKILL and len(seen) < passed and not done.is_set():
                        time.sleep(0.02)
                except ProcessLookupError:
                    pass
            if how is signal.SIGSTOP:
                time.sleep(1.5)

    thread = threading.Thread(target=strike)
    thread.start()
    try:
        with pool:
            while thread.is_alive() or not seen:
                seen += numbers(pool.decode(files, WHOLE))
    finally:
        done.set()
        thread.join()
    return seen, pool


def test_processes_killed_at_random_change_nothing(files):
    seen, pool = kill_at_random(files, 3, signal.SIGKILL, seed=0)
    assert seen == list(range(100)) * (len(seen) // 100)
    assert pool.notes


@pytest.mark.reliability
def test_twenty_processes_killed_and_twenty_stopped_change_nothing(files):
    for how in (signal.SIGKILL, signal.SIGSTOP):
        seen, _ = kill_at_random(files, 20, how, seed=1)
        assert seen == list(range(100)) * (len(seen) // 100)
