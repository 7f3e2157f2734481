"""The rows of the reliability plan: T is training, D is data, W is weights.

Each row has a sample of a few seconds that runs with every test, and a whole run marked `reliability`
(`make test-reliability`).  A row states its figures; they are printed as a table at the end.
"""

import ctypes
import dataclasses
import gc
import hashlib
import json
import os
import random
import resource
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.fixture
def row(request):
    """row(id, what, figures, passed): state a row's figures, and fail the test where the bar is missed."""

    def state(id: str, what: str, figures: str, passed: bool) -> None:
        request.node.user_properties.append(("row", (id, what, figures, bool(passed))))
        assert passed, f"{id} {what}: {figures}"

    return state


def pytest_terminal_summary(terminalreporter):
    reports = terminalreporter.stats.get("passed", []) + terminalreporter.stats.get("failed", [])
    rows = [value for report in reports for name, value in report.user_properties if name == "row"]
    if not rows:
        return
    terminalreporter.section("reliability")
    for id, what, figures, passed in sorted(rows, key=lambda r: (r[0][0], int(r[0][1:].split()[0]))):
        terminalreporter.write_line(f"{'ok  ' if passed else 'FAIL'} {id:<4} {what:<46} {figures}")


@dataclass
class Child:
    """A forked process that does one piece of work; `wait` tells how it ended and all that it said."""

    pid: int
    reading: int
    data: bytes = b""

    def wait(self, timeout: float = 60.0) -> "Ended":
        """Until it ends; it is killed, and TimeoutError raised, after `timeout` seconds."""
        until = time.monotonic() + timeout
        while self._read(until):
            pass
        os.close(self.reading)
        while True:  # a worker of its own may have held the pipe, or closed it early
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > until:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                raise TimeoutError(f"the forked process was still at work after {timeout} s")
            time.sleep(0.002)
        lines = self.data.split(b"\n")[:-1]
        return Ended(os.waitstatus_to_exitcode(status), [json.loads(line) for line in lines])

    def hear(self, timeout: float = 60.0) -> Any:
        """The next thing it says; None when it has ended without."""
        until = time.monotonic() + timeout
        while b"\n" not in self.data:
            if not self._read(until):
                return None
        line, _, self.data = self.data.partition(b"\n")
        return json.loads(line)

    def _read(self, until: float) -> bool:
        ready, _, _ = select.select([self.reading], [], [], max(0.0, until - time.monotonic()))
        piece = os.read(self.reading, 65536) if ready else b""
        self.data += piece
        return bool(piece)


@dataclass
class Ended:
    code: int  # negative: the signal that killed it
    said: list[Any]  # what it told on the way, the value returned last


@pytest.fixture
def fork():
    """fork(work): run work(say) in a forked process, so that a kill costs no second import of torch."""
    children: list[Child] = []

    def start(work: Callable[[Callable[[Any], None]], Any]) -> Child:
        reading, writing = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid:
            os.close(writing)
            children.append(Child(pid, reading))
            return children[-1]
        code = 1
        raw_write = os.write
        try:
            os.close(reading)

            def say(value: Any) -> None:
                raw_write(writing, json.dumps(value).encode() + b"\n")

            said = work(say)
            if said is not None:
                say(said)
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    yield start
    for child in children:
        try:
            os.kill(child.pid, 0)
            if os.waitpid(child.pid, os.WNOHANG) == (0, 0):
                os.kill(child.pid, signal.SIGKILL)
                os.waitpid(child.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass


class Trainer:
    """The real `train` command on a small network and few pictures, in a forked process."""

    def __init__(self, folder: Path, fork: Any, monkeypatch: Any) -> None:
        # before the fork, so that each run starts at once; an optimizer imports torch._dynamo
        import torch._dynamo  # noqa: F401

        import residual.cli.main  # noqa: F401
        from residual.data.shapes import read_shapes
        from residual.pipeline import classification

        if "pictures" not in _kept:
            _kept["pictures"] = read_shapes(train=512, test=64)
        self.pictures, self.open_dataset = _kept["pictures"], classification.open_dataset
        monkeypatch.setattr(classification, "open_dataset", lambda *arguments, **named: self.pictures)
        self.folder, self.fork = folder, fork

    def quick_plan(self) -> Any:
        """For the samples, which all share its reference run."""
        return self.plan(iterations=14, save_steps=3, batch=8)

    def plan(self, *, iterations: int = 60, save_steps: int = 5, batch: int = 24, **changes: Any) -> Any:
        """Crop, flip, mixup, label smoothing, momentum and weight average: all that could fail to resume."""
        from residual.data.transforms import Augmentation
        from residual.pipeline import Plan
        from residual.recipes.recipe import Recipe
        from residual.train.optimizer import Sgd
        from residual.train.schedule import Schedule

        recipe = Recipe(
            name="reliability",
            schedule=Schedule(shape="cosine", rate=0.05, warmup=0.1),
            iterations=iterations,
            batch=batch,  # 512 images are 21 1/3 batches
            optimizer=Sgd(nesterov=True, decay=5e-4, decay_all=False),
            augmentation=Augmentation(mixup=0.5),
            label_smoothing=0.1,
            average=0.95,
            precision="float32",
        )
        plan = Plan(model="resnet8", data="shapes", recipe=recipe, device="cpu", workers=0, looks=3)
        return dataclasses.replace(plan, save_steps=save_steps, **changes)

    def start(self, run: Path, plan: Any = None, prepare: Callable[..., None] | None = None) -> Child:
        """Train, or go on where the folder holds a run.

        It says ["step", n], ["saving", n] and ["saved", n] as it goes; `prepare(say)` runs in it first.
        """

        def work(say: Callable[[Any], None]) -> None:
            os.setpgid(0, 0)
            from residual.cli import main, train, watch
            from residual.pipeline import classification
            from residual.pipeline import run as run_chapters

            fit, save = classification.fit, run_chapters.Checkpoints.save

            def telling_fit(*arguments: Any, **named: Any) -> Any:
                for step in fit(*arguments, **named):
                    say(["step", step.number])
                    yield step

            def telling_save(self: Any, step: int, *arguments: Any, **named: Any) -> Any:
                say(["saving", step])
                path = save(self, step, *arguments, **named)
                say(["saved", step])
                return path

            classification.fit, run_chapters.Checkpoints.save = telling_fit, telling_save
            watch.write = lambda path: path / "report.html"  # drawing is not training
            train._plan = lambda *arguments, **named: plan
            if prepare is not None:
                prepare(say)
            begun = (run / "run.json").exists()
            flags = ["--resume"] if begun else ["--model", "resnet8", "--data", "shapes"]
            sys.argv = ["residual", "train", "--out", str(run), *flags]
            main.main()

        return self.fork(work)

    def result(self, run: Path) -> dict[str, Any]:
        """All that a run ends with, as digests: equal exactly when two runs ended alike."""
        from safetensors.torch import load_file

        newest = max((run / "checkpoints").glob("step-*.json"))
        manifest = json.loads(newest.read_text())
        manifest["state"].pop("seconds")
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        return {
            "step": manifest["step"],
            "training": manifest["sha256"],  # weights, statistics, average, momentum
            "state": manifest["state"],
            # a resumed run says when and where it went on; all else must be the same
            "metrics": [{k: v for k, v in line.items() if k != "time"} for line in lines if "resumed" not in line],
            "model": {
                name: hashlib.sha256(value.numpy().data).hexdigest()
                for name, value in load_file(run / "model.safetensors").items()
            },
        }

    def reference(self, plan: Any, prepare: Callable[..., None] | None = None) -> dict[str, Any]:
        """What an undisturbed run of this plan ends with."""
        key = repr(plan)
        if key not in _kept:
            run = self.folder / "reference"
            ended = self.start(run, plan, prepare).wait(300)
            assert ended.code == 0, ended
            _kept[key] = self.result(run)
            shutil.rmtree(run)
        return dict(_kept[key])


_kept: dict[str, Any] = {}  # pictures and reference runs, for all rows


@pytest.fixture
def trainer(tmp_path, fork, monkeypatch):
    return Trainer(tmp_path, fork, monkeypatch)


@pytest.fixture
def before_each_call(monkeypatch):
    """before_each_call(names, action): action(name, number) runs before every os.<name> call, counted from 1.

    In action, raise to make the call fail; what it returns, if callable, runs after the call.
    """

    def watch(names: tuple[str, ...], action: Callable[[str, int], Any], patch: Any = monkeypatch) -> None:
        count = 0

        def watched(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
            def instead(*arguments: Any, **named: Any) -> Any:
                nonlocal count
                count += 1
                after = action(name, count)
                result = call(*arguments, **named)
                if after is not None:
                    after()
                return result

            return instead

        for name in names:
            patch.setattr(os, name, watched(name, getattr(os, name)))

    return watch


@pytest.fixture
def some_tensors():
    """some_tensors(step): a small training state, another one for every step."""
    import torch

    def make(step: int, count: int = 6) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(step)
        tensors = {f"model.{i}.weight": torch.randn(8, 9, generator=generator) for i in range(count)}
        return tensors | {"model.bn.num_batches_tracked": torch.tensor(step)}

    return make


@pytest.fixture
def quick_folder(tmp_path):
    """A folder in memory where the system has one: thousands of small files without a disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path) as folder:
        yield Path(folder)


class Canaries:
    """A socket that nobody should reach and a file that nobody should open."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "secret.txt"
        self.file.write_text("cat")
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.socket.setblocking(False)
        self.address = f"http://127.0.0.1:{self.socket.getsockname()[1]}/"
        libc = ctypes.CDLL(None)
        self.watch = libc.inotify_init1(os.O_NONBLOCK)
        assert libc.inotify_add_watch(self.watch, os.fsencode(self.file), 0x21) > 0  # opened or read

    def touched(self) -> int:
        """How often they were, since last asked."""
        count = 0
        for look in (lambda: self.socket.accept()[0].close(), lambda: os.read(self.watch, 1 << 16)):
            try:
                look()
                count += 1
            except BlockingIOError:
                continue
        return count

    def close(self) -> None:
        self.socket.close()
        os.close(self.watch)


@pytest.fixture
def canaries(tmp_path):
    if sys.platform != "linux":
        pytest.skip("files are watched by inotify, which Linux has")
    made = Canaries(tmp_path)
    yield made
    made.close()


@pytest.fixture
def bounded(fork):
    """bounded(contents, path, look): figures of how each content, written to the path, is looked at.

    Each in a process of its own, in at most half a second of its time and 64 MB; `look` says whether all was right.
    """

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    def look_at_all(contents: dict[str, bytes], path: Path, look: Callable[[], bool]) -> tuple[str, bool]:
        def work(say: Callable[[Any], None]) -> Any:
            before, began = peak(), time.process_time()
            right = look()
            return [right, time.process_time() - began, peak() - before]

        path.write_bytes(b"")
        look()  # imports are not counted, nor is the collection of what all other tests left
        gc.freeze()
        wrong, slowest, largest = [], 0.0, 0.0
        for name, content in contents.items():
            path.write_bytes(content)
            ended = fork(work).wait()
            right, seconds, megabytes = ended.said[-1] if ended.code == 0 else (False, 0.0, 0.0)
            slowest, largest = max(slowest, seconds), max(largest, megabytes)
            if not right or seconds > 0.5 or megabytes > 64:
                wrong.append(name)
        gc.unfreeze()
        count = len(contents)
        return f"{count - len(wrong)}/{count} named, <= {slowest:.2f} s, <= {largest:.0f} MB; {wrong}", not wrong

    return look_at_all


# --- mutated files -----------------------------------------------------------------------------------------

EDGES = (
    *(0, 1, 2, 4, 7, 8, 16, 127, 128, 255, 256, 1 << 15, 1 << 16),
    *((1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 63, (1 << 64) - 1),
)
KEPT = 200  # files that the mutator goes on from


def mutated(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """One to four changes of a file, in bytes, numbers and lengths; `other` gives pieces to paste."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(changed) + 1)
        match rng.randrange(8):
            case 0:
                changed[at : at + 1] = bytes([rng.randrange(256)])
            case 1 if at < len(changed):
                changed[at] ^= 1 << rng.randrange(8)
            case 2:
                width = rng.choice((1, 2, 4, 8))
                number = rng.choice((*EDGES, len(changed), at, rng.randrange(64), rng.randrange(len(changed) + 1)))
                changed[at : at + width] = (number & (1 << 8 * width) - 1).to_bytes(width, "little")
            case 3:
                del changed[at : at + rng.choice((1, 2, 4, 8, 32, 64))]
            case 4:
                changed[at:at] = bytes(rng.choice((1, 2, 8, 64)))
            case 5:
                start = rng.randrange(len(other) + 1)
                changed[at:at] = other[start : start + rng.choice((1, 4, 16, 64, 256))]
            case 6:
                start = rng.randrange(len(changed) + 1)
                piece = changed[start : start + rng.choice((1, 4, 8, 24))]
                changed[at : at + len(piece)] = piece
            case _:
                del changed[at:]
        if not changed:
            changed[:] = other[:64]
    return bytes(changed)


def inside(array: Any, data: bytes | None = None) -> bool:
    """Whether each number of an array of NumPy's lies in memory that an array owns, or in that of `data`.

    data: what was read; None where the reader took it from a file, into memory of its own.
    """
    if not isinstance(array, np.ndarray) or not array.size:
        return True
    root = array
    while isinstance(root.base, np.ndarray):
        root = root.base
    storage = root if root.base is None or data is None else np.frombuffer(data, np.uint8)
    (first, last), (start, end) = map(np.lib.array_utils.byte_bounds, (array, storage))
    return bool(start <= first <= last <= end)


def fuzz(
    read: Callable[[bytes], dict[str, Any]],
    seeds: list[bytes],
    seconds: float,
    *,
    mutate: Callable[[bytes, bytes, random.Random], bytes] = mutated,
    held: bool = True,
) -> tuple[str, float]:
    """Figures, and files per second.  Whatever is raised beside BadWeights ends the test with its file.

    held: whether arrays may be views of the bytes given.
    """
    from residual.weights.files import BadWeights

    rng = random.Random(0)
    kept, runs, sound, slowest = list(seeds), 0, 0, 0.0  # kept: the seeds, and behind them what they became
    begun = time.monotonic()
    while (now := time.monotonic()) < begun + seconds:
        data = mutate(rng.choice(rng.choice((seeds, kept))), rng.choice(kept), rng)
        runs += 1
        try:
            found = read(data)
        except BadWeights:
            pass
        except Exception as problem:
            raise AssertionError(f"{type(problem).__name__}: {problem}, from {data!r}") from problem
        else:
            sound += 1
            assert all(inside(array, data if held else None) for array in found.values()), data
            if len(data) < 2 * max(map(len, seeds)):
                kept[len(seeds) :] = [*kept[len(seeds) :], data][-KEPT:]
        slowest = max(slowest, time.monotonic() - now)
    rate = runs / seconds
    return f"{runs:,} files at {rate:,.0f}/s, {sound:,} sound, 0 crashes, slowest {slowest:.2f} s", rate
