"""Where the trainings happen: processes on this machine, threads that share a GPU, or actors of a Ray cluster.

All take the same orders and give the same messages (worker.py); a job that has died says None.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

Message = dict[str, Any]
Messages = queue.Queue[tuple["Job", Message | None]]
PATIENCE = 20.0  # seconds: what a thread may take to save a checkpoint when it is ended
HOUSE = Path(__file__).resolve().parents[2]


class Job(Protocol):
    """Trains one run at a time and puts (itself, message) into the queue it was made with."""

    def order(self, what: Message) -> None:
        """Do this next."""

    def stop(self, number: int) -> None:
        """Save a checkpoint of the run under way and stop, as by signal `number`."""

    def end(self, *, now: bool) -> None:
        """No more orders; `now`: whatever it is doing."""

    def last_words(self) -> str:
        """Why it died, as far as can be told."""


Start = Callable[[Messages], Job]
"""Makes a new job that answers into the queue."""


def processes(threads: int, log: Path) -> Start:
    """Jobs as processes of this machine with so many threads each.  log: a file for what they print."""
    return lambda messages: Process(messages, threads, log)


def cores() -> int:
    """Physical cores that this process may use."""
    from joblib import cpu_count

    return int(cpu_count(only_physical_cores=True))


class Process:
    """`python -m residual.reproduce.worker`, in a process group of its own, so that Ctrl-C does not reach it."""

    def __init__(self, messages: Messages, threads: int, log: Path) -> None:
        path = os.pathsep.join(filter(None, [str(HOUSE), os.environ.get("PYTHONPATH")]))
        there = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive", "PYTHONPATH": path}
        self.log = log
        with log.open("ab") as printed:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "residual.reproduce.worker", str(threads)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=printed,
                text=True,
                env={**os.environ, **there},
                process_group=0,
            )
        self.reader = threading.Thread(target=self._read, args=(messages,), daemon=True)
        self.reader.start()

    def _read(self, messages: Messages) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with suppress(ValueError):  # torn by a kill
                messages.put((self, json.loads(line)))
        self.process.wait()
        messages.put((self, None))

    def order(self, what: Message) -> None:
        self._say(what)

    def stop(self, number: int) -> None:
        self._say({"stop": number})

    def _say(self, what: Message) -> None:
        assert self.process.stdin is not None
        with suppress(OSError):  # it has died; the queue will say so
            self.process.stdin.write(json.dumps(what, default=str) + "\n")
            self.process.stdin.flush()

    def end(self, *, now: bool) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        if now:
            self.process.kill()
        with suppress(OSError):
            self.process.stdin.close()
        self.reader.join()
        self.process.stdout.close()

    def last_words(self) -> str:
        code = self.process.returncode
        if code is not None and code < 0:
            hint = ", perhaps because memory ran out" if code == -signal.SIGKILL else ""
            return f"its process was ended by {signal.Signals(-code).name}{hint}"
        lines = self.log.read_text(errors="replace").strip().splitlines() if self.log.is_file() else []
        return f"its process ended with exit code {code}" + (f": {lines[-1]}" if lines else "")


def strands(device: str) -> Start:
    """Jobs as threads of this process that share one GPU, each with a stream of its own."""
    return lambda messages: Strand(messages, device)


class Strand:
    """A thread that trains on its own stream: what one small network leaves idle of a GPU, the others use.

    Processes cannot do this: a GPU takes turns between them.  Most of an iteration is one call that replays a graph
    (train/graph.py), so the threads hardly wait for each other.  A thread cannot be killed: a run that hangs, hangs.
    """

    def __init__(self, messages: Messages, device: str) -> None:
        from residual.pipeline import Stop

        self.messages, self.device, self.error = messages, device, ""
        self.orders: queue.Queue[Message | None] = queue.Queue()
        self.halt = Stop()
        self.thread = threading.Thread(target=self._follow, daemon=True)
        self.thread.start()

    def _follow(self) -> None:
        import torch

        from residual.reproduce.worker import follow

        try:
            on_gpu = self.device.startswith("cuda")
            stream = torch.cuda.Stream(self.device) if on_gpu else None  # type: ignore[no-untyped-call]
            with torch.cuda.stream(stream):  # of None: nothing changes
                while (what := self.orders.get()) is not None:
                    for message in follow(what, self.halt):
                        self.messages.put((self, json.loads(json.dumps(message, default=str))))
        except Exception as error:  # whoever waits for this thread must hear of it
            self.error = f"{type(error).__name__}: {error}"
            self.messages.put((self, None))

    def order(self, what: Message) -> None:
        self.orders.put(what)

    def stop(self, number: int) -> None:
        self.halt.signal = number

    def end(self, *, now: bool) -> None:
        if now:
            self.halt.signal = self.halt.signal or signal.SIGTERM
        self.orders.put(None)
        self.thread.join(timeout=PATIENCE if now else None)

    def last_words(self) -> str:
        return f"its thread has ended: {self.error}"


def on_ray(jobs: int, threads: int, *, gpu: bool) -> Start:
    """Jobs as actors of the Ray cluster of RAY_ADDRESS, or of one that is started here for so many jobs."""
    try:
        import ray
    except ImportError:
        raise ValueError("--on ray needs Ray, which is not installed: pip install 'residual[sweep]'") from None
    if not ray.is_initialized():
        here: dict[str, Any] = {"num_cpus": jobs, "include_dashboard": False}
        here = {} if os.environ.get("RAY_ADDRESS") else here
        path = os.pathsep.join(filter(None, [str(HOUSE), os.environ.get("PYTHONPATH")]))
        there = {"env_vars": {"PYTHONPATH": path, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}}
        ray.init(log_to_driver=False, logging_level="error", runtime_env=there, **here)
    return lambda messages: Actor(messages, threads, gpu=gpu)


class Actor:
    """A Ray actor that follows orders; the folder of the runs must be one that all its machines see."""

    def __init__(self, messages: Messages, threads: int, *, gpu: bool) -> None:
        import ray

        self.messages, self.error = messages, ""
        options = {"num_cpus": 1, "num_gpus": 1 if gpu else 0, "max_concurrency": 2, "max_restarts": 0}
        self.actor = ray.remote(**options)(Follower).remote(threads)

    def order(self, what: Message) -> None:
        threading.Thread(target=self._follow, args=(what,), daemon=True).start()

    def _follow(self, what: Message) -> None:
        import ray

        try:
            for message in self.actor.follow.options(num_returns="streaming").remote(what):
                self.messages.put((self, ray.get(message)))
        except ray.exceptions.RayError as error:
            self.error = str(error).strip().splitlines()[0]
            self.messages.put((self, None))

    def stop(self, number: int) -> None:
        self.actor.stop.remote(number)

    def end(self, *, now: bool) -> None:
        import ray

        ray.kill(self.actor)

    def last_words(self) -> str:
        return f"its Ray actor died: {self.error}"


class Follower:
    """What a Ray actor runs; worker.py's `main` without its pipes."""

    def __init__(self, threads: int) -> None:
        import torch

        from residual.pipeline import Stop

        torch.set_num_threads(threads)
        self._stop = Stop()

    def follow(self, order: Message) -> Any:
        """Yield the messages of one order."""
        from residual.reproduce.worker import follow

        for message in follow(order, self._stop):
            yield json.loads(json.dumps(message, default=str))

    def stop(self, number: int) -> None:
        """Stop the run under way, with a checkpoint."""
        self._stop.signal = number
