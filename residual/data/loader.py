"""A pool of decoding processes that outlives its members.

Order is that of the request at any number of workers; only so much is decoded ahead.  A process that dies
or falls silent is named, with the file it was at, in `notes`; another takes its place and the file is tried
again by itself.  A file that ends two processes is a BadImage.
"""

import mmap
import os
import selectors
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Protocol

import msgspec
import numpy as np

from residual.data.crop import Crop, Draw
from residual.data.decode import BadImage, Pixels, View
from residual.data.jpeg import GAVE_UP
from residual.data.process import Process
from residual.data.shrink import Shrink
from residual.data.worker import SLOT, SLOTS, Answer, Ask, Request, answer, pack, unwrap

SILENCE = 20.0  # seconds without an answer after which a process counts as hung
CHUNK = SLOTS // 2  # files per request; a process has two at most, so that its tray has room for all it owes
STILLBORN = 5  # processes in a row that end before their first file: then none will start


@dataclass(frozen=True, kw_only=True)
class File:
    """One image to decode: a path, or the bytes themselves."""

    name: str  # for people
    path: bytes | None = None
    data: "bytes | Lazy | None" = None
    stamp: tuple[int, int] | None = None  # (bytes, modification time in ns) that the file at `path` must still have
    span: tuple[int, int] | None = None  # (offset, bytes) of the image, where that file holds many
    digest: bytes | None = None  # SHA-256 that its bytes must have
    window: tuple[Crop, Draw] | None = None  # which training window of it is wanted, instead of a view of all


class Lazy(Protocol):
    """Bytes that are read when the file is decoded, so that a long list of files is not held in memory."""

    def read(self) -> bytes: ...


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """What became of one file."""

    file: File
    pixels: Pixels | BadImage
    found: tuple[int, int] = (0, 0)  # width and height before the view
    digest: bytes = b""  # SHA-256 of the file's bytes
    packed: tuple[bytes, str] | None = None  # instead of pixels, the bytes of a file to pack and its suffix


@dataclass(eq=False)
class _Chunk:
    """Some files that go to one process together; `first` is where they belong in the order."""

    first: int
    files: list[File]
    done: int = 0
    failures: int = 0  # processes that ended at the only file of this chunk
    fast: bool = True  # windows may be decoded alone

    def one_by_one(self) -> list["_Chunk"]:
        """What is not done, each file by itself."""
        return [
            replace(self, first=self.first + number, files=[self.files[number]], done=0)
            for number in range(self.done, len(self.files))
        ]


@dataclass(eq=False)
class _Worker:
    """A process and what it owes."""

    process: Process
    heard: float  # when it last showed life
    chunks: deque[_Chunk] = field(default_factory=deque)
    answered: int = 0
    ready: bool = False


class _Work:
    """The files of one call: what is to be handed out, and what came back."""

    def __init__(self, files: Iterable[File], view: View, shrink: Shrink | None, window: int) -> None:
        self.results: dict[int, Decoded] = {}  # by place in the order, until the reader takes them
        self.again: deque[_Chunk] = deque()  # what lost processes left, to be handed out first
        self.given = 0  # files that the reader took
        self._source, self._asked, self._exhausted = _chunks(files), 0, False
        self._view, self._shrink, self._window = view, shrink, window
        self._encoder = msgspec.msgpack.Encoder()

    @property
    def over(self) -> bool:
        """Whether the reader has all there is."""
        return self._exhausted and self.given == self._asked

    def take(self) -> _Chunk | None:
        """Files for a process; None where there are no more, or the reader is too far behind."""
        if self.again:
            return self.again.popleft()
        if self._exhausted or self._asked - self.given >= self._window:
            return None
        files = next(self._source, None)
        if files is None:
            self._exhausted = True
            return None
        chunk = _Chunk(self._asked, files)
        self._asked += len(files)
        return chunk

    def message(self, chunk: _Chunk) -> bytes:
        """What a process is told of the chunk."""
        asked = [_ask(file) for file in chunk.files]
        return pack(self._encoder.encode(Request(self._view, asked, self._shrink, chunk.fast)))


class Pool:
    """Decoding processes, started when first needed.  workers=0 decodes in this process, without bounds.

    windows: whether training windows will be asked for.  They are cut by one process at least: what decodes them
        ends its process on a file that it cannot bear.
    notes: what went wrong with processes and was mended, in plain sentences.
    """

    def __init__(self, *, workers: int, silence: float = SILENCE, windows: bool = False) -> None:
        if workers < 0:
            raise ValueError(f"{workers} decoding processes do not exist; 0 decodes without any")
        self.workers, self.silence, self.windows = max(workers, int(windows)), silence, windows
        self.notes: list[str] = []
        self._team: list[_Worker] = []
        self._owner = os.getpid()
        self._busy = False
        self._stillborn = 0

    def __enter__(self) -> "Pool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the processes; the pool can be used again."""
        team, self._team = self._team, []
        if os.getpid() != self._owner:
            return
        for worker in team:
            worker.process.end()

    @property
    def processes(self) -> tuple[int, ...]:
        """The process ids of the workers that run now."""
        return tuple(worker.process.pid for worker in self._team)

    def decode(
        self, files: Iterable[File], view: View, *, shrink: Shrink | None = None, window: int | None = None
    ) -> Iterator[Decoded]:
        """Decode files, in order, at most `window` ahead of the reader.

        shrink: hand on what is to be packed of a file instead of its pixels.
        """
        if self.workers == 0:
            for file in files:
                yield _finish(file, answer(_ask(file), view, shrink=shrink))
            return
        if os.getpid() != self._owner:  # forked: the processes belong to the parent
            self._team, self._owner, self._busy = [], os.getpid(), False
        if self._busy:
            raise RuntimeError("this pool is decoding already; give the second reader a pool of its own")
        self._busy = True
        finished = False
        try:
            yield from self._run(_Work(files, view, shrink, window or 4 * CHUNK * self.workers))
            finished = True
        finally:
            self._busy = False
            if not finished:  # abandoned half way: answers nobody waits for are still under way
                self.close()

    # --- the event loop ------------------------------------------------------------------------------------

    def _run(self, work: _Work) -> Iterator[Decoded]:
        while True:
            while work.given in work.results:
                left = time.monotonic()
                yield work.results.pop(work.given)
                work.given += 1
                for worker in self._team:  # while the reader was away, nobody listened
                    worker.heard += time.monotonic() - left
            while len(self._team) < self.workers:
                self._team.append(_Worker(Process(windows=self.windows), heard=time.monotonic()))
            self._hand_out(work)
            if work.over:
                return
            for worker, cause in self._wait(work).items():
                self._team.remove(worker)
                # Where its answers ended, it may end by itself, so that its exit code is its own.
                worker.process.end(patience=1.0 if cause is None else 0.0)
                self._replace(worker, cause, work)

    def _hand_out(self, work: _Work) -> None:
        """Give files to whoever has least, two chunks at most."""
        while True:
            worker = min(self._team, key=lambda one: len(one.chunks))
            if len(worker.chunks) >= 2:
                return
            chunk = work.take()
            if chunk is None:
                return
            message = work.message(chunk)
            if not worker.chunks:
                worker.heard = time.monotonic()
            worker.chunks.append(chunk)
            worker.process.ask(message)

    def _wait(self, work: _Work) -> dict[_Worker, str | None]:
        """Move bytes until an answer came; return the workers that are lost, and why where we know."""
        with selectors.DefaultSelector() as selector:
            for worker in self._team:
                selector.register(worker.process.answers, selectors.EVENT_READ, worker)
                if worker.process.owed:
                    selector.register(worker.process.requests, selectors.EVENT_WRITE, worker)
            while True:
                lost: dict[_Worker, str | None] = {}
                answered = False
                for key, events in selector.select(timeout=min(1.0, self.silence / 4)):
                    worker = key.data
                    if events & selectors.EVENT_WRITE:
                        if not worker.process.push():
                            selector.unregister(key.fileobj)
                    elif not worker.process.pull():
                        lost[worker] = None
                    else:
                        worker.heard = time.monotonic()
                        try:
                            answered = self._sort(worker, work.results) or answered
                        except (ValueError, msgspec.MsgspecError):
                            lost[worker] = "sent what is no answer"
                for worker, cause in self._silent():
                    lost.setdefault(worker, cause)
                if answered or lost:
                    return lost

    def _sort(self, worker: _Worker, results: dict[int, Decoded]) -> bool:
        """Turn what a worker sent into results; whether there was at least one."""
        found = False
        for message in worker.process.messages():
            reply = unwrap(message)
            if not worker.ready:
                worker.ready, self._stillborn = True, 0
                continue
            if not worker.chunks:
                raise ValueError("an answer to no question")
            chunk = worker.chunks[0]
            results[chunk.first + chunk.done] = _finish(chunk.files[chunk.done], reply, worker.process.tray)
            chunk.done += 1
            worker.answered += 1
            found = True
            if chunk.done == len(chunk.files):
                worker.chunks.popleft()
        return found

    def _silent(self) -> Iterator[tuple[_Worker, str]]:
        """The workers that should have shown life by now, and how long they did not."""
        now = time.monotonic()
        for worker in self._team:
            patience = self.silence if worker.ready else 4 * self.silence  # it imports what it needs
            if (worker.chunks or not worker.ready) and now - worker.heard > patience:
                yield worker, f"did not answer for {patience:.0f} s"

    # --- lost workers --------------------------------------------------------------------------------------

    def _replace(self, worker: _Worker, cause: str | None, work: _Work) -> None:
        """Write down what happened to a lost worker and put its work back into the queue."""
        why = cause or worker.process.ending
        who = f"decoding process {worker.process.pid}"
        if not worker.ready:
            self._refuse_stillborn(why)
            self.notes.append(f"{who} {why} before its first file; another was started")
            work.again.extendleft(reversed(worker.chunks))
        elif not worker.chunks:
            self.notes.append(f"{who} {why} while it had no work; another was started")
        else:
            suspect = _put_back(worker, work)
            name = suspect.files[0].name
            if cause is None and suspect.fast and worker.process.exit_code == GAVE_UP:
                self.notes.append(f"a part of {name} could not be decoded alone, so all of it is")
                work.again.appendleft(replace(suspect, fast=False))
            elif suspect.failures:
                self.notes.append(f"{who} {why} at {name}, for the second time; the file is left out")
                reason = BadImage(f"a decoding process {why} at it, twice")
                work.results[suspect.first] = Decoded(file=suspect.files[0], pixels=reason)
            else:
                self.notes.append(f"{who} {why} at {name}; another was started and tries it again")
                work.again.appendleft(replace(suspect, failures=1))

    def _refuse_stillborn(self, why: str) -> None:
        self._stillborn += 1
        if self._stillborn >= STILLBORN:
            raise RuntimeError(
                f"decoding processes do not start ({why}); "
                f"`{sys.executable} -m residual.data.worker` shows why, and workers=0 does without them"
            )


def _put_back(worker: _Worker, work: _Work) -> _Chunk:
    """Queue what a lost worker owed, each file by itself, but for the one that it was at, which is returned."""
    owed = [one for chunk in worker.chunks for one in chunk.one_by_one()]
    suspect = owed.pop(min(max(worker.process.begun - worker.answered - 1, 0), len(owed) - 1))
    work.again.extendleft(reversed(owed))
    return suspect


def _chunks(files: Iterable[File]) -> Iterator[list[File]]:
    chunk: list[File] = []
    for file in files:
        chunk.append(file)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _ask(file: File) -> Ask:
    data = file.data
    if data is not None and not isinstance(data, bytes):
        try:
            data = data.read()
        except BadImage as error:
            return Ask(None, refused=str(error))
    return Ask(file.path, data, file.stamp, file.span, file.digest, file.window)


def _finish(file: File, reply: Answer, tray: mmap.mmap | None = None) -> Decoded:
    if reply.refused is not None:
        return Decoded(file=file, pixels=BadImage(reply.refused))
    if reply.packed is not None:
        nothing = np.empty((0, 0, 0), np.uint8)
        return Decoded(file=file, pixels=nothing, found=reply.found, digest=reply.digest, packed=reply.packed)
    # A copy of its own, so that one kept image does not keep its message.
    if reply.slot is None or tray is None:
        pixels = np.frombuffer(bytearray(reply.pixels), np.uint8).reshape(reply.shape)
    else:
        pixels = np.ndarray(reply.shape, np.uint8, tray, offset=reply.slot * SLOT).copy()
    return Decoded(file=file, pixels=pixels, found=reply.found, digest=reply.digest)
