import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any


def test_each_run_gets_its_report(say: Callable[..., Any], trained: Path, quiet_place: Path):
    for name in ("a", "b"):
        shutil.copytree(trained, quiet_place / name)
        (quiet_place / name / "report.html").unlink(missing_ok=True)
    said = say("report", "a", "b")
    assert (said.code, said.err) == (0, "")
    assert said.out.splitlines()[:2] == ["a/report.html", "b/report.html"]
    assert (quiet_place / "b" / "report.html").read_text().startswith("<!")
