"""D5: links: each real file once, whatever leads to it, in bounded time."""

import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from residual.data.sources import open_dataset


def png(number: int) -> bytes:
    buffer = BytesIO()
    Image.fromarray(np.full((16, 16, 3), number, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def one_self_link(root: Path) -> int:
    (root / "cat" / "self").symlink_to(root / "cat")
    return 0


def two_self_links(root: Path) -> int:
    (root / "cat" / "self").symlink_to(".")
    (root / "cat" / "again").symlink_to(root / "cat")
    return 0


def five_self_links(root: Path) -> int:
    for number in range(5):  # followed blindly: 5 ** depth folders
        (root / "cat" / f"self{number}").symlink_to(".")
    return 0


def mutual(root: Path) -> int:
    (root / "cat" / "dog").symlink_to(root / "dog")
    (root / "dog" / "cat").symlink_to(root / "cat")
    (root / "a kitten").symlink_to(root / "cat")  # a class that is only another name
    return 0


def dangling(root: Path) -> int:
    (root / "cat" / "gone.png").symlink_to(root / "nowhere.png")
    (root / "cat" / "gone").symlink_to(root / "nowhere")
    (root / "gone").symlink_to("/nowhere/at all")
    (root / "cat" / "itself.png").symlink_to(root / "cat" / "itself.png")
    return 0


def to_parent(root: Path) -> int:
    (root / "cat" / "up").symlink_to("..")
    (root / "cat" / "up up").symlink_to("../..")
    (root / "cat" / "root").symlink_to("/")
    return 0


def outside(root: Path) -> int:
    there = root.parent / "outside"
    (there / "more").mkdir(parents=True)
    (there / "a.png").write_bytes(png(50))
    (there / "more" / "b.png").write_bytes(png(51))
    (there / "more" / "c.png").hardlink_to(there / "more" / "b.png")
    (root / "cat" / "a.png").symlink_to(there / "a.png")
    (root / "dog" / "a too.png").symlink_to(there / "a.png")  # the same file, in another class
    (root / "cat" / "more").symlink_to(there / "more")
    (root / "cat" / "more again").symlink_to(there / "more")
    return 2


CASES: tuple[Callable[[Path], int], ...] = (
    one_self_link, two_self_links, five_self_links, mutual, dangling, to_parent, outside,
)  # fmt: skip


def test_seven_cases_of_links_give_each_file_once(tmp_path, row):
    right, slowest, wrong = 0, 0.0, []
    for case in CASES:
        root = tmp_path / case.__name__ / "pets"
        for name in ("cat", "dog"):
            (root / name).mkdir(parents=True)
            for number in range(5):
                (root / name / f"{number}.png").write_bytes(png(number + 10 * (name == "dog")))
        expected = 10 + case(root)
        began = time.monotonic()
        data = open_dataset(str(root))
        slowest = max(slowest, time.monotonic() - began)
        names = [name for images in data.splits().values() for name in images.names]
        seen = {int(pixels[0, 0, 0]) for images in data.splits().values() for pixels in images.pixels}
        fine = len(names) == len(set(names)) == len(seen) == expected and data.classes == ("cat", "dog")
        right += fine
        if not fine:
            wrong.append((case.__name__, sorted(names)))
        assert all(problem.reason for problem in data.problems)
    row(
        "D5",
        "links",
        f"{right}/7 with the exact count, slowest {slowest:.2f} s" + (f"; {wrong}" if wrong else ""),
        right == 7 and slowest <= 2,
    )
