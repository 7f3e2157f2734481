"""What a run is: all that a user decides about it, what is written down of it, and what makes it this one."""

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from residual.data.images import Dataset
from residual.data.open_objects import ObjectDataset
from residual.data.transforms import Preprocessing
from residual.models.cost import stages
from residual.models.description import Description
from residual.recipes.recipe import Recipe
from residual.train.precision import Precision

# What does not decide the numbers; the changes do, but they are in the description of the network.
BESIDE_THE_POINT = (
    "workers", "device", "save_steps", "download", "tensorboard", "budget", "changes", "shard_optimizer",
)  # fmt: skip

# The fields there were when the first checkpoints were written.  A younger one that holds its default is left out of
# an identity, so that those runs can still be gone on with.
FIRST = {
    "Plan": "model data recipe size seed",
    "Recipe": "name schedule iterations epochs batch optimizer augmentation mean std label_smoothing average "
    "validation exact_statistics precision",
    "Schedule": "shape rate drops warmup warmup_rate warmup_error",
    "Sgd": "momentum nesterov decay decay_all",
    "Augmentation": "crop pad flip least_area mixup cutmix",
    "Preprocessing": "size resize channels interpolation mean std",
    "Description": "block depths widths inner stem stem_width stem_bias shortcut order stride_in dims channels classes "
    "image stochastic_depth dropout shortcut_scale residual_scale gate_bias checkpoint",
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that a user decides about a run.  It is written to run.json and resumed from there.

    model: a name from the catalog, or a weights file or run folder to fine-tune.
    changes: fields of the named network's description that differ, as in `create_model(name, **changes)`.
    data: "cifar10", "cifar100", "digits", "shapes" or a folder.  size: side of the images, None for the data's own.
    budget: seconds that the whole command may take, None for the recipe's own length.
    save_steps: checkpoint every so many iterations instead of every minute.
    shard_optimizer: of several processes, each keeps a share of the optimizer's state instead of all of it.
    looks: how often held-out images are looked at while training, evenly spread.
    """

    model: str
    data: str
    recipe: Recipe
    size: int | None = None
    seed: int = 0
    budget: float | None = None
    device: str = "auto"
    workers: int = 2
    save_steps: int | None = None
    download: bool = False
    tensorboard: bool = False
    changes: dict[str, Any] = field(default_factory=dict)
    shard_optimizer: bool = False
    looks: int = 20

    def __post_init__(self) -> None:
        if self.looks < 1:
            raise ValueError(f"held-out images are looked at least once, at the end; looks is {self.looks}")


@dataclass(frozen=True, kw_only=True)
class Ground:
    """A plan with all that was found when it met its data and its machine.

    recipe: the plan's, or for few images with smaller batches.  environment: versions and hardware (records.py).
    """

    plan: Plan
    recipe: Recipe
    model: Description
    data: Dataset
    preprocessing: Preprocessing
    precision: Precision

    def description(self, run: Path, *, processes: int, environment: Mapping[str, Any]) -> dict[str, Any]:
        """run.json: everything there is to know about this run before it begins."""
        return {
            "name": run.name,
            "plan": asdict(self.plan),
            "model": {"name": self.plan.model, **asdict(self.model)},
            "recipe": asdict(self.recipe),
            "data": data_description(self.data),
            "preprocessing": asdict(self.preprocessing),
            "seed": self.plan.seed,
            **circumstances(self.precision, processes=processes, environment=environment),
            "stages": [asdict(stage) for stage in stages(self.model)],
        }

    def identity(self) -> str:
        """What a checkpoint must agree with to be of this run: all that decides the numbers."""
        as_read = msgspec.convert(asdict(self.plan), Plan)  # 40 passes are 40.0 when they come back from run.json
        plan = {name: value for name, value in told(as_read).items() if name not in BESIDE_THE_POINT}
        decisive: list[Any] = [plan, told(self.model), told(self.preprocessing)]
        decisive += [self.data.train.fingerprint, self.precision.bfloat16, self.precision.device.type]
        return hashlib.sha256(msgspec.json.encode(decisive, order="deterministic")).hexdigest()

    def refuse_other(self, then: Mapping[str, Any], run: Path) -> None:
        """A resumed run must see the images it began with, and the arithmetic.  then: its run.json."""
        fingerprints = {split: images.fingerprint for split, images in self.data.splits().items()}
        refuse_other(then, run, fingerprints, self.precision, where=self.plan.data)


def data_description(data: Dataset | ObjectDataset) -> dict[str, Any]:
    """What run.json says of images, of whatever kind: where they came from, how many, and what tells them apart."""
    splits = data.splits()
    return {
        "origin": data.origin,
        "fingerprint": data.train.fingerprint,
        "fingerprints": {name: images.fingerprint for name, images in splits.items()},
        "counts": {name: len(images) for name, images in splits.items()},
        "classes": list(data.classes),
        "split": data.split,
        "problems": [asdict(problem) for problem in data.problems],
    }


def circumstances(precision: Precision, *, processes: int, environment: Mapping[str, Any]) -> dict[str, Any]:
    """What run.json says of where and when a run begins."""
    return {
        "precision": precision.format,
        "device": str(precision.device),
        "processes": processes,
        "environment": dict(environment),
        "command": sys.argv,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def refuse_other(
    then: Mapping[str, Any], run: Path, fingerprints: Mapping[str, str], precision: Precision, *, where: str
) -> None:
    """Raise ValueError for other images or other arithmetic than a run began with.  then: its run.json."""
    for split, now in fingerprints.items():
        before = then["data"]["fingerprints"].get(split)
        if before != now:
            raise ValueError(
                f"the {split} images in {where} are not those that {run} began with (fingerprint "
                f"{now[:12]}, then {str(before)[:12]}); put the data back as it was, or start a new run with --out"
            )
    before = f"{then['device'].split(':')[0]} in {then['precision']}"
    now = f"{precision.device.type} in {precision.format}"
    if before != now:
        raise ValueError(
            f"{run} was trained on {before} and would go on on {now}, which could not be exact; resume it on such "
            "a device (--device), or start a new run with --out"
        )


def told(described: Any) -> dict[str, Any]:
    """A description as plain data, without fields younger than FIRST that hold their default."""
    first = FIRST.get(type(described).__name__, "").split()
    said = {}
    for each in fields(described):
        value = getattr(described, each.name)
        if each.name in first or value != _default(each):
            said[each.name] = told(value) if is_dataclass(value) else value
    return said


def _default(each: Field[Any]) -> Any:
    return each.default_factory() if each.default_factory is not MISSING else each.default
