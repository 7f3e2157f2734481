"""Whatever becomes of the process that reads a file, the one that asked lives on and says what happened."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from residual.weights import child, pickles
from residual.weights.child import MEMORY, read_apart
from residual.weights.files import BadWeights

HOSTILE = """
import os, signal, sys, time
import numpy as np
from residual.weights import child, containers
from residual.weights.files import BadWeights

class Hostile:
    NAME = "torch.save"
    def read(self, path):
        {deed}

containers.CONTAINERS = (Hostile(),)
child.SECONDS = 1
child.main()
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.save({"w": torch.arange(4.0)}, tmp_path / "x.pth")
    return tmp_path / "x.pth"


def test_numbers_arrive_as_they_are_in_the_file(tmp_path: Path) -> None:
    saved = {"w": torch.randn(3, 4).t(), "h": torch.randn(3).to(torch.bfloat16), "n": torch.tensor(7)}
    torch.save({"state_dict": saved, "epoch": 3}, tmp_path / "x.pth")
    found = read_apart(tmp_path / "x.pth", pickles)
    assert found.keys() == saved.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in saved.items())


def test_the_child_knows_no_torch() -> None:
    code = "import sys, residual.weights.child; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "deed, reason",
    [
        ("raise BadWeights('it is no good')", "^it is no good$"),
        ("raise IndexError('7')", "as torch.save it makes no sense .IndexError: 7"),
        ("return {'w': np.ones(1 << 28)}", f"takes more than {MEMORY >> 20} MB of memory"),
        ("held = [bytearray(1 << 20) for _ in range(1000)]", f"takes more than {MEMORY >> 20} MB of memory"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "was ended by SIGSEGV"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "the machine ran out of memory"),
        ("while True: pass", "more than 1 s of processor time"),
        ("time.sleep(60)", "took longer than 2 s and was stopped"),
        ("os._exit(3)", "ended with status 3"),
        ("os._exit(0)", "left nothing usable"),
        ("print('noise', file=sys.stderr); os._exit(2)", "ended with status 2"),
        ("return {'w': np.broadcast_to(np.float32(1), (1 << 40,))}", "unfold to more than"),
        ("return {chr(0xdc00) + 'w': 3}", "makes no sense"),
    ],
)
def test_a_reader_that_goes_wrong_is_a_refusal(
    deed: str, reason: str, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hostile.py").write_text(HOSTILE.format(deed=deed))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(child, "__name__", "hostile")
    monkeypatch.setattr(child, "SECONDS", 1)
    monkeypatch.setattr(child, "PATIENCE", 2 if "sleep" in deed else 30)
    with pytest.raises(BadWeights, match=reason):
        read_apart(file, pickles)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the peak is counted otherwise")
def test_a_sound_file_takes_little_more_memory_than_it_has_bytes(tmp_path: Path) -> None:
    def peak(path: Path) -> int:
        """Bytes, by the process's own count: what a parent is told includes the parent."""
        code = "from residual.weights.child import main; main(); print(open('/proc/self/status').read())"
        command = [sys.executable, "-c", code, "torch.save", str(path), str(tmp_path / "out")]
        said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        return 1024 * int(said.split("VmHWM:")[1].split()[0])

    small, large = tmp_path / "small.pth", tmp_path / "large.pth"
    torch.save({"w": torch.zeros(4)}, small)
    torch.save({f"w{place}": torch.zeros(1 << 20) for place in range(16)}, large)  # 64 MB
    idle = peak(small)
    assert idle < 64 << 20
    assert peak(large) - idle <= 1.2 * large.stat().st_size + (16 << 20) < MEMORY


def test_nothing_is_left_behind(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = tmp_path / "temporary"
    places.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(places))
    found = read_apart(file, pickles)
    assert not list(places.iterdir())
    assert found["w"].sum() == 6  # the numbers outlive the file that they came in


def test_it_gets_no_secrets_of_ours(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hostile.py").write_text(HOSTILE.format(deed="raise BadWeights(' '.join(os.environ))"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(child, "__name__", "hostile")
    monkeypatch.setenv("HUB_TOKEN", "x")
    monkeypatch.setenv("PYTHONSTARTUP", "x")
    with pytest.raises(BadWeights, match="PYTHONPATH") as said:
        read_apart(file, pickles)
    threads = {"OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"}
    assert set(str(said.value).split()) <= {*child.ENVIRONMENT, *threads, "PYTHONPATH"}


def test_a_script_without_a_guard_may_load(file: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
        print("once")
        from residual.weights import pickles
        from residual.weights.child import read_apart
        print(read_apart({str(file)!r}, pickles)["w"].tolist())
        """)
    )
    said = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert said.stdout.split("\n") == ["once", "[0.0, 1.0, 2.0, 3.0]", ""]
