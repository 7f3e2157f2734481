"""results/ becomes README's table; a run folder becomes a file of results/.

python -m residual.report.table README.md results            # rewrite the table (make table)
python -m residual.report.table --add RUN results/NAME.json "ROW"  # keep the record of a finished run
"""

import math
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from residual.records import RunFolder, read_json, write_json

BEGIN, END = "<!-- results:", "<!-- /results -->"
POINTS = 60  # of a kept curve
HEAD = "| | paper | ours | runs | record |\n|-|-|-|-|-|"


def record(run: Path, row: str) -> dict[str, Any]:
    """What is kept of a finished run under the title `row`: its number with its whole history, and thinned curves.

    The paper's number is not written here: only an experiment that follows the paper's protocol may do that.
    """
    described = RunFolder.open(run).description
    found = read_json(run / "evaluation.json", dict[str, Any])
    plan = described["plan"]
    lines = RunFolder.open(run).metrics()
    metrics = [line for line in lines if "train_error" in line]
    return {
        "row": row,
        "unit": f"% {found['split']} error",
        "paper": None,
        "ours": [found["top1_error"]],
        "interval": found["interval"],
        "images": found["images"],
        "split": found["split"],
        "seeds": [plan["seed"]],
        "plan": plan,
        "network": described["model"],
        "data": {name: described["data"][name] for name in ("origin", "fingerprint", "counts")},
        "environment": described["environment"],
        "precision": described["precision"],
        "started": described["started"],
        "seconds": lines[-1]["time"],
        "iterations": metrics[-1]["step"],
        "epochs": metrics[-1]["epoch"],
        "training": metrics[: -1 : max(1, math.ceil(len(metrics) / POINTS))] + metrics[-1:],
        "looks": [line for line in lines if any(name.endswith("_error") and name != "train_error" for name in line)],
    }


def row(path: Path, root: Path) -> str:
    """One line of the table from one file of results/."""
    kept = read_json(path, dict[str, Any])
    paper, ours = kept["paper"], kept["ours"]  # one number or none; one number for each seed
    spread = f" ± {stdev(ours):.2f}" if len(ours) > 1 else ""
    cells = (
        f"{kept['row']}, {kept['unit']}",
        "-" if paper is None else f"{paper:.2f}",
        f"{mean(ours):.2f}{spread}",
        str(len(ours)),
        f"[{path.stem}]({path.relative_to(root).as_posix()})",
    )
    return f"| {' | '.join(cells)} |"


def table(results: Path, root: Path) -> str:
    """The whole table, one line for each file of results/, by path."""
    return "\n".join([HEAD, *(row(path, root) for path in sorted(results.rglob("*.json")))])


def renewed(text: str, rows: str) -> str:
    """README's text with the table between its two marks replaced."""
    begin = text.index("\n", text.index(BEGIN)) + 1
    return text[:begin] + rows + "\n" + text[text.index(END) :]


def main(arguments: list[str]) -> None:
    """The two uses above."""
    if arguments[:1] == ["--add"]:
        target = Path(arguments[2])
        target.parent.mkdir(parents=True, exist_ok=True)
        write_json(target, record(Path(arguments[1]), arguments[3]))
        return
    readme, results = Path(arguments[0]), Path(arguments[1])
    readme.write_text(renewed(readme.read_text(), table(results, readme.parent)))


if __name__ == "__main__":
    main(sys.argv[1:])
