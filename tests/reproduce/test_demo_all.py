import json
import os
import subprocess
import sys
from pathlib import Path

from residual.cli.reproduce import EXPERIMENTS, _experiments

HOUSE = Path(__file__).parents[2]


def test_every_experiment_goes_all_the_way_in_miniature(tmp_path: Path):
    """Every experiment leaves a quick record, with all its rows and without the paper."""
    command = [sys.executable, "-m", "residual", "reproduce", "demo-all", "--quick", "--seeds", "1", "--out", "out"]
    env = {**os.environ, "PYTHONPATH": str(HOUSE)}
    ended = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=900)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert not ended.stderr
    for experiment in _experiments(EXPERIMENTS):
        record = json.loads((tmp_path / "out" / "quick" / experiment.name / "record.json").read_text())
        assert record["quick"]
        assert not any(row["paper"] for row in record["rows"])
        assert not record["left_out"]
        measured = {row.name for row in experiment.rows if row.measure}
        assert {row["name"] for row in record["rows"] if row["ours"]} == measured
        assert len(record["lines"]) == len(experiment.lines)
        assert all(claim["verdict"] != "differs" for claim in record["claims"] if claim["p"] is not None)


def test_every_experiment_is_on_the_list():
    files = {path.stem for path in (HOUSE / "residual" / "experiments").glob("*.py")} - {"__init__", "demo"}
    assert {name.replace("-", "_") for name in EXPERIMENTS} == files
    assert [experiment.name for experiment in _experiments(EXPERIMENTS)] == list(EXPERIMENTS)
