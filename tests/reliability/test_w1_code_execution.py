"""W1: no code from a file of weights ever runs.

120 files: 60 callables, each in two of the forms in which a pickle can ask for a call, spread over all the containers
that we read and some that we do not, under names that lie.  What is called would create a file or open a connection.
"""

import contextlib
import io
import os
import pickle
import socket
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from residual.weights.containers import recognise
from residual.weights.files import BadWeights
from residual.weights.sources import inspect, load

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of torch.save before PyTorch 1.6


def callables(sentinel: str, port: int) -> list[tuple[str, tuple[Any, ...]]]:
    """Sixty names and arguments; with those above the line Python itself makes the sentinel or the connection."""
    shell, code = f"touch {sentinel}", f"open({sentinel!r}, 'w')"
    inner = pickle.dumps(Reduces("os.mkdir", (sentinel,)), 2)
    url = f"http://127.0.0.1:{port}/"
    return [
        ("os.system", (shell,)), ("posix.system", (shell,)), ("os.popen", (shell,)), ("os.mkdir", (sentinel,)),
        ("os.makedirs", (sentinel,)), ("os.mknod", (sentinel,)), ("os.symlink", ("nowhere", sentinel)),
        ("os.open", (sentinel, os.O_CREAT | os.O_WRONLY)), ("os.mkfifo", (sentinel,)),
        ("subprocess.call", (["touch", sentinel],)), ("subprocess.run", (["touch", sentinel],)),
        ("subprocess.check_call", (["touch", sentinel],)), ("subprocess.check_output", (["touch", sentinel],)),
        ("subprocess.Popen", (["touch", sentinel],)), ("subprocess.getoutput", (shell,)),
        ("subprocess.getstatusoutput", (shell,)), ("pty.spawn", (["touch", sentinel],)),
        ("builtins.eval", (code,)), ("builtins.exec", (code,)), ("builtins.open", (sentinel, "w")),
        ("io.open", (sentinel, "w")), ("io.FileIO", (sentinel, "w")), ("codecs.open", (sentinel, "w")),
        ("timeit.timeit", (code, "pass", None, 1)), ("cProfile.run", (code,)), ("profile.run", (code,)),
        ("shutil.copyfile", ("/dev/null", sentinel)), ("shutil.copy", ("/dev/null", sentinel)),
        ("shutil.copytree", ("/proc/self/net/netfilter", sentinel)), ("tempfile.mkdtemp", ("", "", sentinel)),
        ("sqlite3.connect", (sentinel,)), ("zipfile.ZipFile", (sentinel, "w")), ("tarfile.open", (sentinel, "w")),
        ("gzip.open", (sentinel, "w")), ("bz2.open", (sentinel, "w")), ("lzma.open", (sentinel, "w")),
        ("logging.FileHandler", (sentinel,)), ("numpy.savetxt", (sentinel, [1.0])), ("numpy.save", (sentinel, 1.0)),
        ("torch.save", (1, sentinel)), ("pickle.loads", (inner,)), ("_pickle.loads", (inner,)),
        ("socket.create_connection", (("127.0.0.1", port),)), ("urllib.request.urlopen", (url,)),
        # ---- these want a further step, but none of them may be named either
        ("builtins.__import__", ("os",)), ("builtins.getattr", (1, "real")), ("builtins.compile", (code, "", "eval")),
        ("importlib.import_module", ("os",)), ("functools.partial", (print,)), ("operator.attrgetter", ("system",)),
        ("operator.methodcaller", ("system", shell)), ("runpy.run_path", (sentinel,)), ("marshal.loads", (b"N",)),
        ("ctypes.CDLL", (None,)), ("torch.load", (sentinel,)), ("torch.hub.load", ("a/b", "c")),
        ("torch.jit.load", (sentinel,)), ("numpy.load", (sentinel,)), ("numpy._core.multiarray.fromfile", (sentinel,)),
        ("torch._utils._rebuild_device_tensor_from_numpy", ()),
    ]  # fmt: skip


class Reduces:
    """Pickled as a call of a name; the name is put in afterwards, for it need not exist here."""

    def __init__(self, name: str, arguments: tuple[Any, ...]) -> None:
        self.name, self.arguments = name, arguments

    def __reduce__(self) -> Any:
        module, _, attribute = self.name.rpartition(".")
        with contextlib.suppress(ImportError, AttributeError):
            return getattr(__import__(module, fromlist=[attribute]), attribute), self.arguments
        return os.getcwd, ()


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def forms(name: str, arguments: tuple[Any, ...]) -> dict[str, bytes]:
    """Programs that ask for the same call."""
    module, _, attribute = name.rpartition(".")
    given = pickle.dumps(arguments, 2)[2:-1]  # leaves a tuple on the stack
    named, stacked = f"c{module}\n{attribute}\n".encode(), text(module) + text(attribute) + b"\x93"
    memoised = text(module) + b"\x94" + text(attribute) + b"\x9400h\0h\1\x93"
    inside = text("collections") + text(f"OrderedDict.{name}") + b"\x93"
    storage = b"(" + text("storage") + named + text("0") + text("cpu") + b"K\1tQ"
    start = pickle.dumps(MAGIC, 2) + pickle.dumps(PROTOCOL, 2)
    found = {f"protocol {protocol}": pickle.dumps({"w": Reduces(name, arguments)}, protocol) for protocol in range(5)}
    return found | {
        "global": b"\x80\x02}" + text("w") + named + given + b"Rs.",
        "stack global": b"\x80\x04}" + text("w") + stacked + given + b"Rs.",
        "memoised": b"\x80\x04}" + text("w") + memoised + given + b"Rs.",
        "a name inside a known one": b"\x80\x04}" + text("w") + inside + given + b"Rs.",
        "newobj": b"\x80\x02}" + text("w") + named + given + b"\x81s.",
        "newobj_ex": b"\x80\x04}" + text("w") + named + given + b"}\x92s.",
        "inst": b"(" + text("x") + f"i{module}\n{attribute}\n.".encode(),
        "obj": b"\x80\x02(" + named + text("x") + b"o.",
        "extension": b"\x80\x02}" + text("w") + b"\x82\1" + given + b"Rs.",
        "build": b"\x80\x02ccollections\nOrderedDict\n)R}" + text("__setstate__") + named + given + b"Rsb.",
        "argument of a known call": b"\x80\x02ccollections\nOrderedDict\n" + named + given + b"R\x85R.",
        "persistent id": b"\x80\x02}" + text("w") + named + given + b"RQs.",
        "of a storage": b"\x80\x02}" + text("w") + storage + b"s.",
        "after the first pickle": start + b"\x80\x02" + named + given + b"R.",
        "dropped at once": b"\x80\x02" + named + given + b"R0}.",
    }  # fmt: skip


def containers(program: bytes) -> dict[str, bytes]:
    """Files around a program."""

    def archive(name: str, content: bytes) -> bytes:
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w") as file:
            file.writestr(name, content)
            file.writestr(name.partition("/")[0] + "/version", b"3\n")
        return made.getvalue()

    def tar(name: str) -> bytes:
        made = io.BytesIO()
        with tarfile.open(fileobj=made, mode="w", format=tarfile.USTAR_FORMAT) as file:
            entry = tarfile.TarInfo(name)
            entry.size = len(program)
            file.addfile(entry, io.BytesIO(program))
        return made.getvalue()

    head = b"".join(pickle.dumps(part, 2) for part in (MAGIC, PROTOCOL, {"little_endian": True}))
    bytecode = struct.pack("<iii", 8, 1, len(program)) + program + struct.pack("<iii", 3, 2, 0)
    hook = struct.pack("<iiiii4s", 3, 1, 1, 2, 4, b"hook")
    header = b'{"__metadata__":{"residual":' + b'"' + program.hex().encode() + b'"}}'
    return {
        "bare pickle": program,
        "archive": archive("a/data.pkl", program),
        "file of before 1.6": head + program + pickle.dumps([], 2),
        "tar of before 0.2": tar("pickle"),
        "archive in an archive": archive("a/data.pkl", archive("a/data.pkl", program)),
        "TorchScript": archive("a/constants.pkl", program),
        "Lua function": hook + bytecode,
        "safetensors": struct.pack("<Q", len(header)) + header,
    }


NAMES = ("x.pth", "x.safetensors", "x.t7", "x.pkl", "x.caffemodel", "x.h5", "x.jpg", "model.safetensors", "x.tar", "x")


def make(folder: Path, sentinel: str, port: int) -> list[Path]:
    """The 120 files: every callable twice, every form, container and name several times."""
    files = []
    for number, (name, arguments) in enumerate(callables(sentinel, port)):
        programs = list(forms(name, arguments).values())
        for half in range(2):
            place = 2 * number + half
            made = list(containers(programs[(number + half * 7) % len(programs)]).values())
            # two of three in the containers that are read furthest
            content = made[place % len(made)] if place % 3 == 0 else made[place % 3]
            path = folder / str(place) / NAMES[place % len(NAMES)]
            path.parent.mkdir()
            path.write_bytes(content)
            files.append(path)
    return files


@pytest.fixture
def canary() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


def connections(server: socket.socket) -> int:
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            server.accept()[0].close()
            count += 1
    return count


def examine(
    tmp_path: Path,
    canary: socket.socket,
    readers: dict[str, Callable[[Path], Any]],
    row: Callable[..., None],
    share: int,
) -> None:
    sentinel = tmp_path / "sentinel"
    files = make(tmp_path, str(sentinel), canary.getsockname()[1])
    assert len(files) == 120
    refused, untyped, ran = 0, [], 0
    chosen = files[::share]
    for path in chosen:
        ends = []
        for name, reader in readers.items():
            try:
                reader(path)
                ends.append(f"{name} read it")
            except BadWeights:
                continue
            except Exception as problem:
                ends.append(f"{name}: {type(problem).__name__}")
        refused += not ends
        untyped += [(path.parent.name, end) for end in ends]
        ran += sentinel.exists() or sentinel.is_symlink()
    connected = connections(canary)
    row(
        "W1",
        f"code in files, {' and '.join(readers)}",
        f"{refused}/{len(chosen)} refused with a reason, {ran} sentinels, {connected} connections",
        refused == len(chosen) and ran == connected == 0,
    )
    assert not untyped


def test_code_in_120_files_does_not_run_in_this_process(tmp_path, canary, row):
    """The readers themselves, without the child process that guards them."""
    examine(tmp_path, canary, {"read": lambda path: recognise(path).read(path)}, row, 1)


def test_code_in_some_files_does_not_run_by_the_doors(tmp_path, canary, row):
    examine(tmp_path, canary, {"load": load, "inspect": inspected}, row, 24)


@pytest.mark.reliability
def test_code_in_120_files_does_not_run_by_the_doors(tmp_path, canary, row):
    examine(tmp_path, canary, {"load": load, "inspect": inspected}, row, 1)


def inspected(path: Path) -> None:
    """`inspect` tells a problem instead of raising it."""
    if "problem" in (found := inspect(path)):
        raise BadWeights(found["problem"])


@pytest.mark.filterwarnings("ignore")
def test_the_attacks_are_real(tmp_path, canary, fork):
    """Guards the rows above: Python's own unpickler runs the 44 that need no further step."""
    port = canary.getsockname()[1]
    ran = []
    for number in range(44):
        sentinel = tmp_path / f"{number}.made"
        name, arguments = callables(str(sentinel), port)[number]
        program = forms(name, arguments)["global"]

        def work(say: Any, program: bytes = program) -> None:
            null = os.open(os.devnull, os.O_RDWR)
            for stream in range(3):
                os.dup2(null, stream)
            socket.setdefaulttimeout(0.2)  # the canary does not answer
            with contextlib.suppress(BaseException):
                pickle.loads(program)

        fork(work).wait()
        if list(tmp_path.glob(f"{number}.made*")) or connections(canary):
            ran.append(name)
    assert len(ran) >= 40, sorted({name for name, _ in callables("", port)[:44]} - set(ran))
