"""D3: the user's folder is never written to: every file, folder and time is the same before and after.

Reading, checking, streaming; also from a folder that is mounted read-only.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from residual.data import assemble
from residual.data.check import check
from residual.data.sources import open_dataset


def plant(root: Path) -> None:
    """Classes of sound, damaged, linked and odd files."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 4), ("test", 4)):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                side = int(rng.integers(40, 90))
                pixels = rng.integers(0, 256, (side, side + 3, 3), np.uint8)
                suffix = ("jpg", "png", "webp", "bmp")[number % 4]
                Image.fromarray(pixels).save(root / split / name / f"{number}.{suffix}")
    whole = (root / "train" / "cat" / "0.jpg").read_bytes()
    (root / "train" / "cat" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "train" / "dog" / "empty.png").write_bytes(b"")
    (root / "train" / "dog" / "notes.txt").write_text("not an image")
    (root / "train" / "dog" / "again.jpg").symlink_to(root / "train" / "cat" / "0.jpg")
    (root / "train" / "dog" / "loop").symlink_to(root / "train")


def snapshot(root: Path) -> dict[str, tuple[object, ...]]:
    """Of everything below: kind, permissions, times of change, and SHA-256 of the content."""
    state: dict[str, tuple[object, ...]] = {}
    for folder, folders, files in os.walk(root):
        for name in [".", *folders, *files]:
            path = Path(folder) / name
            status = path.lstat()
            content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
            state[str(path)] = (
                status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns,
                hashlib.sha256(content).hexdigest(),
            )  # fmt: skip
    return state


def use(root: Path) -> int:
    """Everything that this library does with a folder; returns how many images it saw."""
    data = open_dataset(str(root), size=32, workers=2)
    check(data)
    seen = 0
    for images in data.splits().values():
        for batch in images.stream(torch.arange(len(images)).split(7)):
            seen += len(batch)
    return seen


def test_a_folder_is_the_same_before_and_after(tmp_path, monkeypatch, row):
    monkeypatch.setenv("RESIDUAL_CACHE", str(tmp_path / "cache"))
    plant(tmp_path / "pets")
    before = snapshot(tmp_path / "pets")
    seen = use(tmp_path / "pets")
    monkeypatch.setattr(assemble, "MEMORY", 0)  # once more, streamed from disk
    seen += use(tmp_path / "pets")
    after = snapshot(tmp_path / "pets")
    changed = sorted(path for path in before | after if before.get(path) != after.get(path))
    row(
        "D3",
        "user's folder untouched",
        f"{len(before)} files and folders, {seen} images read in memory and streamed, {len(changed)} changed",
        not changed and seen == 2 * 40,
    )


def test_a_folder_that_is_mounted_read_only_is_read(tmp_path, row):
    plant(tmp_path / "pets")
    (tmp_path / "pets" / "train" / "dog" / "again.jpg").unlink()
    script = (
        "import sys; sys.path[:0] = [sys.argv[1]]; from pathlib import Path; "
        "from test_d3_untouched import use; print(use(Path(sys.argv[2])))"
    )
    mount = 'mount --bind $0 $0 && mount -o remount,ro,bind $0 && ! touch $0/x 2>/dev/null && exec "$@"'
    python = [sys.executable, "-c", script, str(Path(__file__).parent), str(tmp_path / "pets")]
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare, to mount a folder read-only")
    environment = os.environ | {"RESIDUAL_CACHE": str(tmp_path / "cache")}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    ended = subprocess.run(
        ["unshare", "-rm", "sh", "-c", mount, str(tmp_path / "pets"), *python],
        capture_output=True, text=True, timeout=120, env=environment, check=False,
    )  # fmt: skip
    if "unshare:" in ended.stderr or "mount:" in ended.stderr:
        pytest.skip(f"a folder cannot be mounted here: {ended.stderr.strip()}")
    assert ended.returncode == 0, ended.stderr
    row("D3", "read-only mount", f"{ended.stdout.strip()} images read", ended.stdout.strip() == "40")
