"""The paper's claim on a laptop: figure 6 in small, on the digits that come with scikit-learn.

    residual demo

Claim     deeper plain networks have a higher *training* error (degradation); residual ones do not
Protocol  plain and residual twins of 8 and 44 layers, three seeds, training error of the last pass
Verdict   three one-sided Welch tests over the seeds, each at 5 %
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from scipy.stats import ttest_ind

from residual import pipeline
from residual.events import Finished, Progress, Started, Stopped
from residual.pipeline import Plan, Stop
from residual.recipes.demo import demo as recipe
from residual.records import RunFolder, environment, write_json

SHALLOW, DEEP = 8, 44
SEEDS = (3, 4, 5)  # not those on which the rate and the depths were chosen (docs/lab_book.md)
FAMILIES = {"plain": "plain", "residual": "resnet"}
MARGIN = 1.0  # percentage points by which the deep residual network may be worse and still count as not degraded
LEVEL = 0.05

CLAIM = (
    "Deeper plain networks train worse, although a deeper network could copy a shallower one and add identities; "
    "with shortcuts the deeper network trains at least as well."
)


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One training so far: mean training error (percent) of each finished pass."""

    network: str
    family: str
    depth: int
    seed: int
    errors: tuple[float, ...]
    test_error: float | None = None  # when it is finished
    train_loss: float | None = None
    seconds: float = field(default=0.0, compare=False)  # of this training, over all sittings; when it is finished


def networks() -> list[tuple[str, str, int]]:
    """(name, family, depth), shallow before deep."""
    return [(f"{stem}{depth}", family, depth) for depth in (SHALLOW, DEEP) for family, stem in FAMILIES.items()]


def run(folder: Path, *, stop: Stop) -> Iterator[Curve]:
    """Train every network with every seed, yielding its curve after each pass; finished runs are not repeated."""
    for seed in SEEDS:
        for network, family, depth in networks():
            yield from _train(folder / f"{network}-seed{seed}", network, family, depth, seed, stop)
            if stop.signal:
                return


def _train(path: Path, network: str, family: str, depth: int, seed: int, stop: Stop) -> Iterator[Curve]:
    if (path / "run.json").exists():
        happenings = pipeline.resume(path, stop=stop)
        lines = RunFolder.open(path).metrics()
    else:
        plan = Plan(model=network, data="digits", recipe=recipe(), seed=seed, device="cpu", workers=0)
        happenings, lines = pipeline.train(plan, path, stop=stop), []
    points: list[tuple[float, float, float]] = []  # epoch, training error, loss
    told = 0
    for event in happenings:
        match event:
            case Started(step=step):
                points = [
                    (line["epoch"], line["train_error"], line["loss"])
                    for line in lines
                    if "train_error" in line and line["step"] <= step
                ]
            case Progress():
                assert event.train_error is not None
                points.append((event.epoch, event.train_error, event.loss))
                if int(event.epoch) > told:
                    told = int(event.epoch)
                    finished = passes(points)[:told]  # the last point may lie in the next pass
                    yield Curve(network=network, family=family, depth=depth, seed=seed, errors=finished)
            case Finished():
                yield Curve(
                    network=network,
                    family=family,
                    depth=depth,
                    seed=seed,
                    errors=passes(points)[: round(points[-1][0])],  # whole iterations may end in the next pass
                    test_error=event.evaluations["last"]["top1_error"],
                    train_loss=mean(loss for epoch, _, loss in points if epoch > points[-1][0] - 1),
                    seconds=event.seconds,
                )
            case Stopped():
                return


def passes(points: list[tuple[float, float, float]]) -> tuple[float, ...]:
    """The mean training error of each pass over the images: pass k covers epochs k to k + 1."""
    by_pass: dict[int, list[float]] = {}
    for epoch, error, _ in points:
        by_pass.setdefault(max(0, int(epoch - 1e-6)), []).append(error)
    return tuple(mean(errors) for _, errors in sorted(by_pass.items()))


def conclude(folder: Path, curves: list[Curve]) -> dict[str, Any]:
    """Write demo.json and return its verdict; the report is made from the file."""
    verdict = judge(curves)
    runs = [
        {
            "network": curve.network,
            "family": curve.family,
            "depth": curve.depth,
            "seed": curve.seed,
            "curve": [{"step": n, "epoch": n, "train_error": error} for n, error in enumerate(curve.errors, start=1)],
            "final": {
                "train_error": curve.errors[-1],
                "test_error": curve.test_error,
                "train_loss": curve.train_loss,
            },
        }
        for curve in curves
    ]
    write_json(
        folder / "demo.json",
        {
            "claim": CLAIM,
            "verdict": verdict,
            "depths": [SHALLOW, DEEP],
            "runs": runs,
            "environment": environment(),
            "seconds": sum(curve.seconds for curve in curves),
            "settings": {"data": "1,797 handwritten digits of 8x8 pixels (scikit-learn)", **asdict(recipe())},
        },
    )
    return verdict


def judge(curves: list[Curve]) -> dict[str, Any]:
    """The three claims, tested over the seeds on the training error of the last pass."""
    final: dict[tuple[str, int], list[float]] = {}
    for curve in curves:
        final.setdefault((curve.family, curve.depth), []).append(curve.errors[-1])
    plain = {depth: final["plain", depth] for depth in (SHALLOW, DEEP)}
    residual = {depth: final["residual", depth] for depth in (SHALLOW, DEEP)}
    tests = [
        _test(
            f"plain-{DEEP} trains worse than plain-{SHALLOW}",
            {f"plain-{SHALLOW}": plain[SHALLOW]},
            {f"plain-{DEEP}": plain[DEEP]},
        ),
        _test(
            f"resnet-{DEEP} trains no worse than resnet-{SHALLOW}, within {MARGIN:g} point",
            {f"resnet-{DEEP}": residual[DEEP]},
            {f"resnet-{SHALLOW} + {MARGIN:g}": [error + MARGIN for error in residual[SHALLOW]]},
        ),
        _test(
            f"resnet-{DEEP} trains better than plain-{DEEP}",
            {f"resnet-{DEEP}": residual[DEEP]},
            {f"plain-{DEEP}": plain[DEEP]},
        ),
    ]
    holds = all(test["holds"] for test in tests)
    numbers = (
        f"from {SHALLOW} to {DEEP} layers the training error of plain networks went from "
        f"{mean(plain[SHALLOW]):.1f} % to {mean(plain[DEEP]):.1f} %, that of residual networks from "
        f"{mean(residual[SHALLOW]):.1f} % to {mean(residual[DEEP]):.1f} %"
    )
    failed = [test["claim"] for test in tests if not test["holds"]]
    sentence = f"It shows: {numbers}."
    if not holds:
        sentence = f"It did not show this time ({'; '.join(failed)}: not confirmed): {numbers}."
    return {"holds": holds, "sentence": sentence, "tests": tests}


def _test(claim: str, lower: dict[str, list[float]], higher: dict[str, list[float]]) -> dict[str, Any]:
    """Welch's one-sided test that the mean of `lower` is below that of `higher`, each a name and its values."""
    (low,), (high,) = lower.values(), higher.values()
    p = float(ttest_ind(low, high, equal_var=False, alternative="less").pvalue)
    numbers = {name: [round(value, 2) for value in values] for name, values in (lower | higher).items()}
    return {"claim": claim, "p": p, "holds": p < LEVEL, "numbers": numbers}
