"""results/ becomes README's table; a run folder, or a reproduction's record, becomes a file of results/.

python -m residual.report.table README.md results            # rewrite the table (make table)
python -m residual.report.table --add RUN results/NAME.json "ROW" [OF]  # keep the record of a finished run
cp runs/reproduce/figure1/record.json results/figure1.json     # keep the record of a reproduction as it is
"""

import math
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from residual.records import RunFolder, read_json, write_json

BEGIN, END = "<!-- results:", "<!-- /results -->"
POINTS = 60  # of a kept curve
LOOKS = ("_error", "_map50")  # how the names of what is measured while training end
DETECTED = (  # what is kept of a detector's evaluation
    "map50", "voc07", "coco", "coco_masks", "coco_most", "causes", "procedure", "objects", "seconds_per_image",
    "given_class_error", "top1_error", "top5_error", "classification", "classes_from",
)  # fmt: skip
HEAD = "| | paper | ours | runs | record |\n|-|-|-|-|-|"


MEASURES = {  # of an evaluation: what the table says of the number
    "given_class_error": "localization error, the class given",
    "top1_error": "error",
    "map50": "mAP@.5 of boxes",
    "masks": "AP@.5 of masks",
    "top5_error": "top-5 localization error",
}


def record(run: Path, row: str, of: str | None = None) -> dict[str, Any]:
    """What is kept of a finished run under the title `row`: its number with its whole history, and thinned curves.

    of: which number, a name of MEASURES; None takes the first that the run has.
    The paper's number is not written here: only an experiment that follows the paper's protocol may do that.
    """
    described = RunFolder.open(run).description
    found = read_json(run / "evaluation.json", dict[str, Any])
    plan = described["plan"]
    lines = RunFolder.open(run).metrics()
    metrics = [line for line in lines if "loss" in line]
    numbers = measured(found)
    of = next(iter(numbers)) if of is None else of
    if of not in numbers:
        raise ValueError(f"{run} has no {of!r}; it has: {', '.join(numbers)}")
    return {
        "row": row,
        "unit": f"% {found['split']} {MEASURES[of]}",
        "paper": None,
        "ours": [numbers[of]],
        "interval": found["interval"] if of == next(iter(numbers)) else None,
        "numbers": {name: found[name] for name in DETECTED if name in found} if "task" in found else {},
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
        "looks": [line for line in lines if any(name.endswith(LOOKS) and name != "train_error" for name in line)],
    }


def measured(found: dict[str, Any]) -> dict[str, float]:
    """The numbers of an evaluation that have a name in MEASURES, the most important first."""
    numbers = {name: found[name] for name in MEASURES if found.get(name) is not None}
    if found.get("coco_masks"):
        numbers["masks"] = found["coco_masks"]["AP50"]
    return numbers


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


def rows(path: Path, root: Path) -> list[str]:
    """The lines of one file: of a run one; of a reproduction those that trainings gave, numbers first, then claims."""
    kept = read_json(path, dict[str, Any])
    if "experiment" not in kept:
        return [row(path, root)]
    link = f"[{path.stem}]({path.relative_to(root).as_posix()})"
    lines = []
    for each in kept["rows"]:
        if each["seconds"] and each["ours"]:
            half = "" if each["interval"] is None else f" ± {(each['interval'][1] - each['interval'][0]) / 2:.2f}"
            paper = "-" if each["paper"] is None else f"{each['paper']['value']:g}"
            cells = (
                f"{kept['experiment']['name']}: {named(each['name'], each['unit'])}{_short(each)}",
                paper,
                f"{each['mean']:.2f}{half}: {each['verdict']}" if each["paper"] else f"{each['mean']:.2f}{half}",
                str(each["n"]),
                link,
            )
            lines.append(f"| {' | '.join(cells)} |")
    for each in kept["claims"]:
        if each["p"] is not None:
            runs = min(len(values) for values in each["numbers"].values())
            claim = f"{kept['experiment']['name']}: {each['text']}{_short(each)}"
            lines.append(f"| {claim} | claimed | {each['verdict']}, p = {each['p']:.2g} | {runs} each | {link} |")
    return lines


def named(name: str, unit: str) -> str:
    """A row with its unit; of a unit whose words the name has already, only the percent sign."""
    said = unit.removeprefix("% ")
    short = "%" if unit != said else ""
    return ", ".join(filter(None, [name, short if said in name else unit]))


def _short(each: dict[str, Any]) -> str:
    """How much of the full length was trained, where it was not all."""
    short = each["short"]
    return "" if short is None else f" ({short['iterations']:,} of {short['of']:,} iterations)"


def table(results: Path, root: Path) -> str:
    """The whole table, the lines of each file of results/, by path."""
    return "\n".join([HEAD, *(line for path in sorted(results.rglob("*.json")) for line in rows(path, root))])


def renewed(text: str, rows: str) -> str:
    """README's text with the table between its two marks replaced."""
    begin = text.index("\n", text.index(BEGIN)) + 1
    return text[:begin] + rows + "\n" + text[text.index(END) :]


def main(arguments: list[str]) -> None:
    """The two uses above."""
    if arguments[:1] == ["--add"]:
        target = Path(arguments[2])
        target.parent.mkdir(parents=True, exist_ok=True)
        write_json(target, record(Path(arguments[1]), *arguments[3:5]))
        return
    readme, results = Path(arguments[0]), Path(arguments[1])
    readme.write_text(renewed(readme.read_text(), table(results, readme.parent)))


if __name__ == "__main__":
    main(sys.argv[1:])
