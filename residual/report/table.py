"""results/ becomes README's table; a run folder becomes a file of results/.

    python -m residual.report.table README.md results            # rewrite the table (make table)
    python -m residual.report.table --add RUN results/NAME.json  # keep the record of a finished run
"""

import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from residual.records import Cell, RunFolder, read_json, write_json

BEGIN, END = "<!-- results:", "<!-- /results -->"
POINTS = 60  # of a kept curve
HEAD = "| | paper | ours | runs | record |\n|-|-|-|-|-|"


def record(run: Path) -> dict[str, Any]:
    """What is kept of a finished run: its number with its whole history, and thinned curves.

    The paper's number is not written here: only an experiment that follows the paper's protocol may do that.
    """
    described = RunFolder.open(run).description
    found = read_json(run / "evaluation.json", dict[str, Any])
    plan, recipe = described["plan"], described["recipe"]
    budget = plan.get("budget")
    length = f"{budget / 60:g} min" if budget else f"{recipe['iterations'] or recipe['epochs']:g}"
    lines = RunFolder.open(run).metrics()
    metrics = [line for line in lines if "train_error" in line]
    return {
        "row": f"{described['model']['name']}, {described['data']['origin']}, recipe {recipe['name']}, {length}",
        "unit": "% test error",
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
        "training": metrics[:: max(1, len(metrics) // POINTS)] + metrics[-1:],
        "looks": [line for line in lines if any(name.endswith("_error") and name != "train_error" for name in line)],
    }


def row(path: Path, root: Path) -> str:
    """One line of the table from one file of results/."""
    kept = read_json(path, dict[str, Any])
    cell = Cell(row=kept["row"], unit=kept["unit"], paper=kept["paper"], ours=tuple(kept["ours"]))
    paper = "-" if cell.paper is None else f"{cell.paper:.2f}"
    spread = f" ± {stdev(cell.ours):.2f}" if len(cell.ours) > 1 else ""
    link = path.relative_to(root).as_posix()
    return f"| {cell.row}, {cell.unit} | {paper} | {mean(cell.ours):.2f}{spread} | {len(cell.ours)} | [{path.stem}]({link}) |"


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
        write_json(target, record(Path(arguments[1])))
        return
    readme, results = Path(arguments[0]), Path(arguments[1])
    readme.write_text(renewed(readme.read_text(), table(results, readme.parent)))


if __name__ == "__main__":
    main(sys.argv[1:])
