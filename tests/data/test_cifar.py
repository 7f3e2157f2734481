import hashlib
import http.server
import io
import pickle
import tarfile
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from residual.data import cifar, sources
from residual.data.cifar import CIFAR10, CIFAR100, download_cifar, find_cifar, read_cifar


def python2_array(pixels: np.ndarray) -> bytes:
    """The opcodes with which the authors' Python 2 wrote an array."""
    head = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n"
    shape = b"(" + b"".join(b"I%d\n" % side for side in pixels.shape) + b"t"
    kind = b"cnumpy\ndtype\n(S'u1'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI0\ntb"
    data = pixels.tobytes()
    return head + shape + kind + b"I00\nT" + len(data).to_bytes(4, "little") + data + b"tb"


def batch(count: int, seed: int, key: str = "labels", classes: int = 10) -> tuple[bytes, np.ndarray]:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (count, 3072), np.uint8)
    labels = b"(l" + b"".join(b"I%d\na" % (number % classes) for number in range(count))
    text = b"(dS'data'\n" + python2_array(pixels) + b"sS'" + key.encode() + b"'\n" + labels + b"s."
    return text, pixels


@pytest.fixture
def small10(monkeypatch: pytest.MonkeyPatch) -> tuple[cifar.Source, dict[str, bytes], np.ndarray]:
    """CIFAR-10 in small: its files, the first batch's pixels, and a description with their checksums."""
    files, first = {}, None
    for number, name in enumerate((*CIFAR10.train, *CIFAR10.test)):
        files[name], pixels = batch(20, number)
        first = pixels if first is None else first
    names = b"".join(b"S'%s'\na" % name for name in (b"plane", b"car", *(b"c%d" % n for n in range(8))))
    files[CIFAR10.meta] = b"(dS'label_names'\n(l" + names + b"s."
    source = replace(CIFAR10, md5s={name: hashlib.md5(data).hexdigest() for name, data in files.items()})
    assert first is not None
    return source, files, first


def archive(source: cifar.Source, files: dict[str, bytes], extra: str | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(f"{source.folder}/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        if extra:
            tar.addfile(tarfile.TarInfo(extra))
    return buffer.getvalue()


def test_published_checksums_are_those_that_torchvision_knows():
    from torchvision.datasets import CIFAR10 as Ten
    from torchvision.datasets import CIFAR100 as Hundred

    for ours, theirs in ((CIFAR10, Ten), (CIFAR100, Hundred)):
        assert (ours.md5, ours.url, ours.folder) == (theirs.tgz_md5, theirs.url, theirs.base_folder)
        listed = dict([*theirs.train_list, *theirs.test_list, (theirs.meta["filename"], theirs.meta["md5"])])
        assert ours.md5s == listed


def test_folder_and_archive_give_the_same_images_in_the_published_order(small10, tmp_path, monkeypatch):
    source, files, first = small10
    (tmp_path / source.folder).mkdir()
    for name, data in files.items():
        (tmp_path / source.folder / name).write_bytes(data)
    data = read_cifar(source, tmp_path / source.folder)
    assert (len(data.train), len(data.test)) == (100, 20)
    assert data.classes[:2] == ("plane", "car")
    assert data.train.names[19:21] == ("data_batch_1:19", "data_batch_2:0")
    assert (data.train.pixels[3].permute(2, 0, 1).numpy().ravel() == first[3]).all()
    packed = archive(source, files, extra="../outside")
    (tmp_path / source.archive).write_bytes(packed)
    source = replace(source, md5=hashlib.md5(packed).hexdigest())
    again = read_cifar(source, tmp_path / source.archive)
    assert again.train.fingerprint == data.train.fingerprint
    monkeypatch.setattr(cifar, "CIFAR10", source)
    assert find_cifar(tmp_path) == (source, tmp_path / source.folder)
    assert find_cifar(tmp_path / source.archive) == (source, tmp_path / source.archive)


def test_cifar_100_has_fine_labels(tmp_path):
    files = {name: batch(200, 0, "fine_labels", 100)[0] for name in ("train", "test")}
    files["meta"] = b"(dS'fine_label_names'\n(l" + b"".join(b"S'c%02d'\na" % n for n in range(100)) + b"s."
    source = replace(CIFAR100, md5s={name: hashlib.md5(data).hexdigest() for name, data in files.items()})
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    data = read_cifar(source, tmp_path)
    assert data.train.labels.tolist() == list(range(100)) * 2


def test_arrays_in_pickles_of_today_are_read_too():
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    content = cifar._unpickle(pickle.dumps({b"data": pixels}, protocol=4), "x")
    assert (content[b"data"].uint8("x") == pixels).all()


class Malice:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    "data",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
        b"S'x'\nPid\n.",
        b"(l.",
        b"",
        b"\x80\x04]r\xff\xff\xff\x7f.",
        b"((((",
        b"(dS'data'\ncnumpy.core.multiarray\n_reconstruct\n(ttRN.",
    ],
)
def test_pickles_run_nothing_and_fail_with_a_sentence(data):
    with pytest.raises(ValueError, match="not what CIFAR's authors published"):
        cifar._unpickle(data, "data_batch_1")


def test_a_malicious_pickle_leaves_no_trace(tmp_path):
    for protocol in range(6):
        data = pickle.dumps(Malice(tmp_path / "ran"), protocol=protocol)
        with pytest.raises(ValueError, match="nothing in it was run"):
            cifar._unpickle(data, "data_batch_1")
    assert not (tmp_path / "ran").exists()


def test_damaged_files_are_refused_by_checksum(small10, tmp_path):
    source, files, _ = small10
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "data_batch_3").write_bytes(files["data_batch_3"][:-1])
    with pytest.raises(ValueError, match="data_batch_3 is damaged"):
        read_cifar(source, tmp_path)
    (tmp_path / "data_batch_3").unlink()
    with pytest.raises(ValueError, match="lacks data_batch_3"):
        read_cifar(source, tmp_path)
    (tmp_path / source.archive).write_bytes(b"not it")
    with pytest.raises(ValueError, match="its MD5 is"):
        read_cifar(source, tmp_path / source.archive)


@pytest.mark.parametrize("change", ["shape", "label", "count"])
def test_batches_that_contradict_themselves_are_refused(small10, tmp_path, change):
    source, files, _ = small10
    whole = files["data_batch_1"]
    files["data_batch_1"] = {
        "shape": whole.replace(b"(I20\nI3072\nt", b"(I20\nI3073\nt"),
        "label": whole.replace(b"aI9\na", b"aI10\na", 1),
        "count": whole[:-2] + b"I1\nas.",
    }[change]
    source = replace(source, md5s={name: hashlib.md5(data).hexdigest() for name, data in files.items()})
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match="data_batch_1"):
        read_cifar(source, tmp_path)


@pytest.fixture
def server():
    """A web server on this machine that knows ranges and can break off."""
    state = {"data": b"", "stop_after": None, "asked": []}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            state["asked"].append(self.headers.get("Range"))
            start = int((self.headers.get("Range") or "bytes=0-")[6:].rstrip("-"))
            if start >= len(state["data"]):
                self.send_error(416)
                return
            rest = state["data"][start:]
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(rest)))
            self.end_headers()
            self.wfile.write(rest[: state["stop_after"]])

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        state["url"] = f"http://127.0.0.1:{running.server_port}/{CIFAR10.archive}"
        yield state
        running.shutdown()
        thread.join()


def test_a_download_that_breaks_off_goes_on_where_it_stopped(server, tmp_path):
    server["data"] = bytes(range(256)) * 20_000
    source = replace(CIFAR10, url=server["url"], md5=hashlib.md5(server["data"]).hexdigest())
    server["stop_after"] = 3_000_000
    with pytest.raises(ValueError, match="goes on"):
        download_cifar(source, tmp_path)
    server["stop_after"] = None
    there = download_cifar(source, tmp_path)
    assert there.read_bytes() == server["data"]
    assert server["asked"][0] is None
    assert server["asked"][1].startswith("bytes=")
    assert [one.name for one in tmp_path.iterdir()] == [CIFAR10.archive]
    assert download_cifar(source, tmp_path) == there
    assert len(server["asked"]) == 2


def test_a_download_with_another_checksum_is_removed(server, tmp_path):
    server["data"] = b"something else"
    with pytest.raises(ValueError, match="not the published"):
        download_cifar(replace(CIFAR10, url=server["url"]), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_downloaded_unless_asked(server, own_cache, monkeypatch):
    monkeypatch.setattr(sources, "CIFAR10", replace(CIFAR10, url=server["url"]))
    with pytest.raises(ValueError, match=r"CIFAR-10 is not here.*cifar-10-python\.tar\.gz"):
        sources.open_dataset("cifar10")
    assert server["asked"] == []
