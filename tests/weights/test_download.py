"""Downloads over a server of our own: interrupted, resumed, wrong, and never under their name before they are right."""

import hashlib
import io
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.client import HTTPMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from residual.weights import download as module
from residual.weights.download import download
from residual.weights.files import BadWeights

CONTENT = bytes(range(256)) * 4096  # 1 MB
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def directly(monkeypatch: pytest.MonkeyPatch) -> None:
    """To a server on this machine, whatever proxy the machine has."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@dataclass
class Server:
    """What the server does with the next requests, and what it was asked."""

    url: str = ""
    content: bytes = CONTENT
    ends_after: list[int] = field(default_factory=list)  # bytes, one number per request; then whole answers
    ranges: bool = True
    length: bool = True
    status: int = 0
    elsewhere: str = ""  # where it sends us
    asked: list[str | None] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            span = self.headers["Range"]
            state.asked.append(span)
            if state.elsewhere and self.path == "/x.pth":
                self.send_response(302)
                self.send_header("Location", state.elsewhere)
                self.end_headers()
                return
            if state.status:
                self.send_error(state.status)
                return
            start = int(span.removeprefix("bytes=").removesuffix("-")) if span and state.ranges else 0
            if start >= len(state.content):
                self.send_error(416)
                return
            body = state.content[start:]
            self.send_response(206 if start else 200)
            if state.length:
                self.send_header("Content-Length", str(len(body)))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(state.content) - 1}/{len(state.content)}")
            self.end_headers()
            self.wfile.write(body[: state.ends_after.pop(0)] if state.ends_after else body)

        def log_message(self, *words: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        state.url = f"http://127.0.0.1:{http.server_port}/x.pth"
        yield state
        http.shutdown()
        thread.join()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "x.pth"


@pytest.mark.parametrize("length", [True, False], ids=["with length", "without length"])
def test_a_file_arrives_whole(server: Server, target: Path, length: bool) -> None:
    server.length = length
    told: list[tuple[int, int]] = []
    download(server.url, target, digest=DIGEST[:8], tell=lambda done, total: told.append((done, total)))
    assert target.read_bytes() == CONTENT
    assert [path.name for path in target.parent.iterdir()] == ["x.pth"]
    assert told[-1] == (len(CONTENT), len(CONTENT) if length else 0)


def test_an_interrupted_download_goes_on_where_it_ended(server: Server, target: Path) -> None:
    server.ends_after = [300_000, 200_000]
    for there in (300_000, 500_000):
        with pytest.raises(BadWeights, match=f"ended after {there:,} of 1,048,576 bytes; what came is kept"):
            download(server.url, target, digest=DIGEST)
        assert not target.exists()
    download(server.url, target, digest=DIGEST)
    assert server.asked == [None, "bytes=300000-", "bytes=500000-"]
    assert target.read_bytes() == CONTENT


def test_a_server_without_ranges_sends_it_all_again(server: Server, target: Path) -> None:
    server.ends_after, server.ranges = [300_000], False
    with pytest.raises(BadWeights, match="ended after"):
        download(server.url, target, digest=DIGEST)
    download(server.url, target, digest=DIGEST)
    assert target.read_bytes() == CONTENT


def test_a_part_of_another_file_is_fetched_anew(server: Server, target: Path) -> None:
    target.parent.mkdir()
    for wrong in (b"x" * 1000, b"x" * len(CONTENT), b"x" * 2 * len(CONTENT)):
        target.with_name("x.pth.part").write_bytes(wrong)
        download(server.url, target, digest=DIGEST)
        assert target.read_bytes() == CONTENT
        target.unlink()


def test_a_part_that_is_whole_is_only_checked(server: Server, target: Path) -> None:
    target.parent.mkdir()
    target.with_name("x.pth.part").write_bytes(CONTENT)
    download(server.url, target, digest=DIGEST)
    assert server.asked == [f"bytes={len(CONTENT)}-"]
    assert target.read_bytes() == CONTENT


def test_another_file_is_thrown_away(server: Server, target: Path) -> None:
    server.content = b"something else"
    with pytest.raises(BadWeights, match=rf"has sha256 [0-9a-f]{{64}}, expected {DIGEST[:8]}\.\.\.: another file"):
        download(server.url, target, digest=DIGEST[:8])
    assert not list(target.parent.iterdir())


def test_md5_will_do_where_nobody_published_better(server: Server, target: Path) -> None:
    download(server.url, target, digest=hashlib.md5(CONTENT).hexdigest(), algorithm="md5")
    assert target.read_bytes() == CONTENT


def test_what_the_server_says_is_passed_on(server: Server, target: Path) -> None:
    server.status = 404
    with pytest.raises(BadWeights, match="was not fetched: the server says 404 Not Found"):
        download(server.url, target, digest=DIGEST)


def test_a_server_may_send_us_on(server: Server, target: Path) -> None:
    server.elsewhere = server.url.replace("x.pth", "y.pth")
    download(server.url, target, digest=DIGEST)
    assert target.read_bytes() == CONTENT


def test_nobody_sends_us_to_what_is_no_web_server(server: Server, target: Path) -> None:
    server.elsewhere = "ftp://127.0.0.1:9/x.pth"
    with pytest.raises(BadWeights, match=f"was not fetched: the server sends us on to '{server.elsewhere}', away"):
        download(server.url, target, digest=DIGEST)
    assert not target.exists()


@pytest.mark.parametrize("url, safe", [("https://b.org/x", True), ("http://b.org/x", False), ("ftp://b.org/x", False)])
def test_from_https_we_go_on_to_https_only(url: str, safe: bool) -> None:
    asked = (urllib.request.Request("https://a.org/x"), io.BytesIO(), 302, "Found", HTTPMessage(), url)
    if safe:
        onward = module.SafeRedirects().redirect_request(*asked)
        assert onward is not None
        assert onward.full_url == url
    else:
        with pytest.raises(BadWeights, match="away from https"):
            module.SafeRedirects().redirect_request(*asked)


def test_no_server_is_a_refusal(tmp_path: Path) -> None:
    with pytest.raises(BadWeights, match=r"was not fetched: .*refused.*try again later"):
        download("http://127.0.0.1:9/x", tmp_path / "x", digest=DIGEST)


@pytest.mark.parametrize("length", [True, False])
def test_more_than_any_file_we_read_is_not_fetched(
    server: Server, target: Path, length: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.length = length
    monkeypatch.setattr(module, "MAX_FILE", 1000)
    with pytest.raises(BadWeights, match="1,000"):
        download(server.url, target, digest=DIGEST)
    assert not target.exists()


def test_two_at_once_do_not_write_into_one_file(server: Server, target: Path) -> None:
    import fcntl

    target.parent.mkdir()
    with target.with_name("x.pth.part").open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(BadWeights, match="being fetched by another process"):
            download(server.url, target, digest=DIGEST)
    assert not server.asked
