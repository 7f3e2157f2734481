"""D4: sixty names that trip programs up: each is read under its own name, or listed; only files are opened."""
# pathlib has no paths of bytes
# ruff: noqa: PTH102, PTH103, PTH123

import os
import socket
import stat
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from residual.data.folder import as_text
from residual.data.sources import open_dataset

NAMES = (
    b"new\nline.png", b"carriage\rreturn.png", b"tab\t.png", b"bell\x07.png", b"escape\x1b[31m.png", b"del\x7f.png",
    b" leading space.png", b"trailing space .png", b"two  spaces.png", b"-leading dash.png", b"--help.png",
    b"-rf.png", b"%2e%2e%2f.png", b"%s%n%d.png", b"{0}{name}.png", b"$HOME.png", b"`true`.png", b"$(true).png",
    b"semi;colon.png", b"pipe|.png", b"amp&ersand.png", b"quo\"te.png", b"apos'trophe.png", b"back\\slash.png",
    b"\\n.png", b"star*.png", b"quest?ion.png", b"[a-z].png", b"<tag>.png", b"#hash.png", b"@at.png", b"!.png",
    b"col:on.png", b"com,ma.png", b"equals=.png", b"tilde~.png", b"dot.dot.dot.png", b"two.jpg.png",
    b"UPPER.PNG", b"MiXeD.PnG", "smile \U0001f600.png".encode(), "family \U0001f468‍\U0001f469‍\U0001f467.png".encode(),
    "é composed.png".encode(), "é decomposed.png".encode(), "漢字.png".encode(), "עברית.png".encode(),
    "right‮left.png".encode(), "zero​width.png".encode(), "﻿bom.png".encode(), "ß.png".encode(),
    b"latin-1 \xe9.png", b"broken \xff\xfe.png", b"half \xf0\x9f.png", b"surrogate \xed\xb3\xbf.png",
    b"n" * 251 + b".png", ("ü" * 125 + ".png").encode(), b"nul.png", b"con.png", b"1e309.png", b"null.png",
)  # fmt: skip


def png(number: int) -> bytes:
    buffer = BytesIO()
    Image.fromarray(np.full((16, 16, 3), number, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def test_sixty_names_are_read_or_listed(tmp_path, row):
    assert len(set(NAMES)) == 60
    here = os.fsencode(tmp_path)
    number = 0
    for name in ("cat", "dog"):
        os.mkdir(here + b"/" + name.encode())
    impossible = 0
    for number, name in enumerate(NAMES):
        try:
            with open(here + b"/" + (b"cat/", b"dog/")[number % 2] + name, "wb") as file:
                file.write(png(number))
        except OSError:  # a file system that knows better
            impossible += 1
    data = open_dataset(str(tmp_path), workers=2)
    assert data.problems == ()
    right = 0
    for images in data.splits().values():
        for name, label, pixels in zip(images.names, images.labels.tolist(), images.pixels, strict=True):
            number = int(pixels[0, 0, 0])
            own = as_text((b"cat/", b"dog/")[number % 2] + NAMES[number])
            right += name == own and label == number % 2 and bool((pixels == number).all())
            name.encode("utf-8")  # can be written anywhere
    row("D4", "names", f"{right} of {60 - impossible} names read as themselves", right == 60 - impossible >= 54)


def test_names_that_are_no_text_can_name_classes(tmp_path):
    here = os.fsencode(tmp_path)
    for number, name in enumerate((b"caf\xe9", "katze \U0001f431".encode(), b"new\nline")):
        os.makedirs(here + b"/" + name)
        for copy in range(2):
            with open(here + b"/" + name + b"/%d.png" % copy, "wb") as file:
                file.write(png(10 * number + copy))
    data = open_dataset(str(tmp_path))
    assert data.classes == ("caf\\xe9", "katze \U0001f431", "new\nline")
    assert len(data.train) == len(data.validation) == 3


def test_what_is_no_file_is_listed_and_never_opened(tmp_path, monkeypatch, row):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(2):
            (tmp_path / name / f"{number}.png").write_bytes(png(number))
    os.mkfifo(tmp_path / "cat" / "fifo.png")
    os.mkfifo(tmp_path / "cat" / "fifo")
    (tmp_path / "cat" / "to fifo.jpg").symlink_to(tmp_path / "cat" / "fifo.png")
    monkeypatch.chdir(tmp_path)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind("dog/socket.png")
    expected = {"cat/fifo.png", "cat/fifo", "cat/to fifo.jpg", "dog/socket.png"}
    try:
        os.mknod(tmp_path / "dog" / "device.png", stat.S_IFCHR | 0o600, os.makedev(1, 5))  # /dev/zero
        expected.add("dog/device.png")
    except PermissionError:
        pass
    hidden = tmp_path / "dog" / "secret.png"
    hidden.write_bytes(png(7))
    hidden.chmod(0)
    if os.geteuid() != 0:
        expected.add("dog/secret.png")

    opened: list[bytes] = []
    real = os.open

    def watched(path, *rest, **named):
        opened.append(os.fsencode(path))
        return real(path, *rest, **named)

    monkeypatch.setattr(os, "open", watched)
    began = time.monotonic()
    data = open_dataset(str(tmp_path), workers=0)
    seconds = time.monotonic() - began
    listening.close()
    assert seconds < 2
    assert {problem.path for problem in data.problems} == expected
    touched = [path for path in opened if b"fifo" in path or b"socket" in path or b"device" in path]
    row(
        "D4",
        "fifos, sockets, devices, no permission",
        f"{len(expected)} listed, {len(touched)} opened, {seconds:.2f} s",
        not touched,
    )


def test_two_hundred_folders_deep_is_read_and_too_long_a_path_is_listed(tmp_path, row):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(2):
            (tmp_path / name / f"{number}.png").write_bytes(png(number))
    where = os.open(tmp_path / "cat", os.O_RDONLY)
    for depth in range(200):  # 200 folders with short names, then 30 with long ones
        name = f"d{depth}" if depth < 170 else "x" * 200
        os.mkdir(name, dir_fd=where)
        deeper = os.open(name, os.O_RDONLY, dir_fd=where)
        os.close(where)
        where = deeper
        if depth in (169, 199):
            file = os.open("deep.png", os.O_WRONLY | os.O_CREAT, dir_fd=where)
            os.write(file, png(99))
            os.close(file)
    os.close(where)
    data = open_dataset(str(tmp_path))
    names = data.train.names + data.validation.names
    deep = [name for name in names if name.endswith("deep.png")]
    too_long = [problem for problem in data.problems if "too long" in problem.reason]
    row(
        "D4",
        "200 folders deep",
        f"{len(deep)} file read 170 folders down, {len(too_long)} listed as too long a path",
        len(deep) == 1 and len(too_long) == 1,
    )


@pytest.mark.parametrize("folder", [".ipynb_checkpoints", ".git", "__MACOSX", ".Trash-1000", "@eaDir"])
def test_folders_that_programs_leave_behind_are_no_classes(tmp_path: Path, folder):
    for name in ("cat", "dog", folder, f"cat/{folder}"):
        (tmp_path / name).mkdir()
        for number in range(2):
            (tmp_path / name / f"{number}.png").write_bytes(png(number))
    (tmp_path / "cat" / "._0.png").write_bytes(b"what a Mac leaves on foreign disks")
    data = open_dataset(str(tmp_path))
    assert data.classes == ("cat", "dog")
    assert len(data.train) + len(data.validation) == 4
    assert data.problems == ()
