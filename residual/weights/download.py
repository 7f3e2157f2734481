"""Fetch a published file: only when asked, resumable, and never under its name before its hash is right.

What has arrived lies in NAME.part beside the target; a second call goes on from there (HTTP Range).
"""

import fcntl
import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPMessage
from pathlib import Path
from typing import IO, BinaryIO
from urllib.parse import urlsplit

from residual.records import sync_folder
from residual.weights.files import MAX_FILE, BadWeights

PIECE = 1 << 20  # bytes
SILENCE = 30  # seconds without a byte before giving up for now

Tell = Callable[[int, int], None]  # bytes there, bytes in all (0 where the server does not say)


def download(url: str, target: Path, *, digest: str, algorithm: str = "sha256", tell: Tell | None = None) -> None:
    """Fetch `url` into `target`, whose hash must begin with `digest`.

    Refuses, as `BadWeights`, a file with another hash (and throws it away), and says how to go on where the
    connection ended early.  A part that does not lead to the right hash is fetched anew, once.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    with part.open("ab+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadWeights(f"{target.name} is being fetched by another process; wait for it") from None
        resumed = _fetch(url, file, tell)
        found = hashed(file, algorithm)
        if resumed and not found.startswith(digest):
            file.truncate(0)
            _fetch(url, file, tell)
            found = hashed(file, algorithm)
        if not found.startswith(digest):
            part.unlink()
            raise BadWeights(
                f"{url} has {algorithm} {found}, expected {digest}...: another file, or one that was changed on its "
                "way; it was thrown away"
            )
        os.fsync(file.fileno())
        part.replace(target)
        sync_folder(target.parent)


class SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows from https to https only, where anybody on the way could otherwise answer; urllib follows anywhere."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        if urlsplit(newurl).scheme not in ("https", *(["http"] if req.type == "http" else [])):
            fp.close()
            raise BadWeights(
                f"{req.full_url} was not fetched: the server sends us on to {newurl[:200]!r}, away from https; fetch "
                "the file by hand if you trust that place, and give its path"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def hashed(file: BinaryIO, algorithm: str) -> str:
    """The hash of a whole file."""
    file.seek(0)
    digest = hashlib.new(algorithm, usedforsecurity=False)
    while piece := file.read(PIECE):
        digest.update(piece)
    return digest.hexdigest()


def _fetch(url: str, file: BinaryIO, tell: Tell | None) -> bool:
    """Bring the file to its end; whether it began with what was there."""
    there = file.seek(0, os.SEEK_END)
    request = urllib.request.Request(url, headers={"User-Agent": "residual", "Accept-Encoding": "identity"})
    if there:
        request.add_header("Range", f"bytes={there}-")
    try:
        answer = urllib.request.build_opener(SafeRedirects).open(request, timeout=SILENCE)
    except urllib.error.HTTPError as problem:
        problem.close()
        if problem.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and there:
            return True  # all of it is there already, or it is of another file: the hash will tell
        raise BadWeights(f"{url} was not fetched: the server says {problem.code} {problem.reason}") from None
    except (OSError, http.client.HTTPException) as problem:
        reason = getattr(problem, "reason", problem)
        raise BadWeights(f"{url} was not fetched: {reason}; nothing was changed, so try again later") from None
    with answer:
        goes_on = answer.status == http.client.PARTIAL_CONTENT and _begins(answer) == there
        if not goes_on:
            file.truncate(0)
            there = 0
        length = answer.headers.get("Content-Length", "")
        total = there + int(length) if length.isdecimal() else 0
        if total > MAX_FILE:
            raise BadWeights(f"{url} has {total:,} bytes; the limit is {MAX_FILE:,}")
        try:
            while piece := answer.read(PIECE):
                there += file.write(piece)
                if there > MAX_FILE:
                    raise BadWeights(f"{url} has more than {MAX_FILE:,} bytes, the limit")
                if tell:
                    tell(there, total)
        except (OSError, http.client.HTTPException):
            total = total or there + 1
        if there < total:
            raise BadWeights(
                f"the connection to {url} ended after {there:,} of {total:,} bytes; what came is kept, and the same "
                "command goes on from there"
            )
    return goes_on


def _begins(answer: http.client.HTTPResponse) -> int | None:
    """The first byte of a part, as the server counts."""
    kind, _, span = answer.headers.get("Content-Range", "").partition(" ")
    first = span.partition("-")[0]
    return int(first) if kind == "bytes" and first.isdecimal() else None
