"""What finished runs are asked besides what their trainings recorded: which networks look at which images, and how.

An exam is work as a training is: it has a price, a job is told of it, it can be stopped, and it is done once.  What it
found is kept in the folder of its first run, with all that decides it: the weights, the held-out images, and the way of
looking down to its last number.  Equal exams are one, whichever experiment or row asks.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Protocol

import msgspec

from residual.records import RunFolder, read_json, write_json
from residual.reproduce.arithmetic import Load
from residual.reproduce.data import source
from residual.reproduce.experiment import AnySetting, Experiment
from residual.reproduce.store import Failure, Run, Store, iterations, shortened

WEIGHTS = "model.safetensors"
Tell = Callable[[int, int], None]
"""Is told how many images are done, and of how many; raises to end the exam."""


class Way(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A way to look at held-out images, as data that a job can be told."""

    @property
    def words(self) -> str:
        """For a line on the screen: ten-crop."""
        raise NotImplementedError

    def examine(self, runs: Sequence[Path], tell: Tell) -> dict[str, Any]:
        """Look now: what the networks of the runs together find, as plain JSON values."""
        raise NotImplementedError

    def rules(self, runs: Sequence[Path]) -> Any:
        """Whatever else decides the number than weights and images, as plain JSON values: crops, scales, thresholds."""
        return None

    def load(self, settings: Sequence[AnySetting]) -> Load:
        """What an image costs the networks of these trainings together."""
        raise NotImplementedError

    def images(self, setting: AnySetting) -> int:
        """How many are looked at."""
        return source(setting.data).held

    def recorded(self, runs: Sequence[Path]) -> dict[str, Any] | None:
        """What the training itself has found in this way; None: nothing."""
        return None

    def others(self, runs: Sequence[Path]) -> list[Path]:
        """Files of weights that take part and are not those of the runs."""
        return []


@dataclass(frozen=True)
class Examined:
    """A measure (experiment.py): a number of what was found in an exam."""

    way: Way
    pick: Callable[[dict[str, Any]], float]

    def __call__(self, runs: Sequence[Path]) -> float:
        """From the exam as it was kept, or after it."""
        found = examined(self.way, runs)
        try:
            return self.pick(found)
        except KeyError as error:
            raise ValueError(f"{self.way.words} of {runs[0]}: what was found has no {error}") from error
        except ValueError as error:
            raise ValueError(f"{self.way.words} of {runs[0]}: {error}") from error


@dataclass(frozen=True)
class Drawn:
    """What draws a line (experiment.py) from what was found in an exam of a run."""

    way: Way
    pick: Callable[[dict[str, Any]], dict[str, list[tuple[float, float]]]]

    def __call__(self, run: Path) -> dict[str, list[tuple[float, float]]]:
        """From the exam as it was kept, or after it."""
        return self.pick(examined(self.way, [run]))


@dataclass(frozen=True, kw_only=True)
class Exam:
    """A way, and the runs of one seed that go it together: one network, or an ensemble."""

    way: Way
    runs: tuple[Run, ...]

    @cached_property
    def key(self) -> tuple[str, int]:
        """What makes it this exam."""
        return _digest([self.way, [run.key for run in self.runs]]), self.runs[0].seed

    @property
    def name(self) -> str:
        """For a reader."""
        more = f" and {len(self.runs) - 1} more" if len(self.runs) > 1 else ""
        return f"{self.way.words} of {self.runs[0].name}{more}"

    @property
    def settings(self) -> tuple[AnySetting, ...]:
        """Of the runs."""
        return tuple(run.setting for run in self.runs)

    @property
    def images(self) -> int:
        """How many are looked at."""
        return self.way.images(self.runs[0].setting)

    def is_ready(self, store: Store) -> bool:
        """Whether all its runs are done."""
        return all(store.state(run) == "done" for run in self.runs)

    def is_over(self, store: Store) -> bool:
        """Whether it has been taken; not if a file is missing or damaged, of which whoever takes it will speak."""
        with suppress(OSError, ValueError):
            return self.is_ready(store) and found(self.way, [store.path(run) for run in self.runs]) is not None
        return False

    def failure(self, store: Store) -> Failure | None:
        """Why it ended badly when it was last taken; None: it did not."""
        file = self._failed(store)
        if not file.is_file() or self.is_over(store):
            return None
        try:
            return read_json(file, Failure)
        except ValueError as error:
            return Failure(reason=str(error), diverged=False)

    def set_failed(self, store: Store, failure: Failure) -> None:
        """Remember that it ended badly: its row must not be judged by the others, now or later."""
        write_json(self._failed(store), failure)

    def set_over(self, store: Store) -> None:
        """Forget that it ended badly."""
        self._failed(store).unlink(missing_ok=True)

    def _failed(self, store: Store) -> Path:
        return store.path(self.runs[0]) / f"exam-{self.key[0][:8]}.failed.json"


def way_of(measure: object) -> Way | None:
    """How what a row or a line shows comes about; None: it only reads what the trainings recorded."""
    return measure.way if isinstance(measure, Examined | Drawn) else None


def _asked(experiments: Iterable[Experiment]) -> Iterator[tuple[Way, tuple[AnySetting, ...]]]:
    """What rows and lines ask for."""
    for each in experiments:
        of: list[tuple[object, tuple[AnySetting, ...]]] = [(row.measure, row.settings) for row in each.rows]
        of += [(line.of, (line.setting,)) for line in each.lines]
        for measure, settings in of:
            if (way := way_of(measure)) is not None:
                yield way, settings


def exams(
    experiments: Iterable[Experiment], runs: Iterable[Run], actual: Callable[[AnySetting], AnySetting]
) -> list[Exam]:
    """What rows and lines ask of these runs, each once.  actual: a setting as it is trained here."""
    keys = {run.key for run in runs}
    seeds = sorted({seed for _, seed in keys})
    found: dict[tuple[str, int], Exam] = {}
    for way, asked in _asked(experiments):
        settings = [actual(setting) for setting in asked]
        for seed in seeds:
            exam = Exam(way=way, runs=tuple(Run(setting=setting, seed=seed) for setting in settings))
            if all(run.key in keys for run in exam.runs):
                found.setdefault(exam.key, exam)
    return list(found.values())


Asked = Mapping[str, Sequence[tuple[Way, tuple[AnySetting, ...]]]]


def exams_by_last(experiments: Iterable[Experiment]) -> Asked:
    """The ways that rows and lines ask for with their settings, each once, by the last of these as `shortened` to 1.

    So a training of any length can be told what is due after it, if those before it are done: `due_after`.
    """
    found: dict[str, dict[str, tuple[Way, tuple[AnySetting, ...]]]] = {}
    for way, settings in _asked(experiments):
        what = _digest([way, [setting.key for setting in settings]])
        found.setdefault(shortened(settings[-1], 1).key, {})[what] = way, settings
    return {last: list(asked.values()) for last, asked in found.items()}


def due_after(run: Run, asked: Asked) -> list[Exam]:
    """The exams that a run is the last to be needed for; the runs before it are as much shortened as it is."""
    due = []
    for way, (*before, last) in asked.get(shortened(run.setting, 1).key, ()):
        share = iterations(run.setting), iterations(last)
        others = (Run(setting=_alike(each, *share), seed=run.seed) for each in before)
        due.append(Exam(way=way, runs=(*others, run)))
    return due


def _alike(setting: AnySetting, length: int, of: int) -> AnySetting:
    return setting if length == of else shortened(setting, max(1, iterations(setting) * length // of))


# --- what is kept ----------------------------------------------------------------------------------------------


class _Weights(msgspec.Struct, frozen=True, kw_only=True):
    """A file of weights, by its content; one of the same name, size and time (ns) is not read again."""

    name: str
    size: int
    changed: int
    sha256: str


class _Kept(msgspec.Struct, kw_only=True):
    """exam-<8 digits>.json: what was found, after all that decides it."""

    way: dict[str, Any]
    rules: Any
    images: dict[str, str]
    weights: list[_Weights]
    found: dict[str, Any]


def examined(way: Way, runs: Sequence[Path], tell: Tell = lambda done, images: None) -> dict[str, Any]:
    """What was found before, or now."""
    if (before := found(way, runs)) is not None:
        return before
    tell(0, 0)  # whether to begin at all
    kept = _Kept(
        **_conditions(way, runs),
        weights=[_described(_file(place), _sha256(_file(place))) for place in (*runs, *way.others(runs))],
        found={},
    )
    digest = _digest([kept.way, kept.rules, kept.images, [each.sha256 for each in kept.weights]])
    kept.found = _plain(way.examine(runs, tell))
    write_json(runs[0] / f"exam-{digest[:8]}.json", kept)
    return kept.found


def found(way: Way, runs: Sequence[Path]) -> dict[str, Any] | None:
    """What was found before; None: nobody has looked, or what was kept of it cannot be read."""
    if (recorded := way.recorded(runs)) is not None:
        return recorded
    conditions = _conditions(way, runs)
    for file in sorted(runs[0].glob("exam-????????.json")):
        with suppress(ValueError):
            kept = read_json(file, _Kept)
            now = {"way": kept.way, "rules": kept.rules, "images": kept.images}
            if now == conditions and _are_those(kept.weights, [*runs, *way.others(runs)]):
                return kept.found
    return None


def _conditions(way: Way, runs: Sequence[Path]) -> dict[str, Any]:
    """All that decides what is found, but for the weights."""
    images = {split: digest for split, digest in of_run(runs[0], "data", "fingerprints").items() if split != "train"}
    return {"way": _plain(way), "rules": _plain(way.rules(runs)), "images": images}


def of_run(run: Path, *names: str) -> Any:
    """A part of a run's description; `ValueError` if it is not there."""
    part: Any = RunFolder.open(run).description
    for name in names:
        if not isinstance(part, dict) or name not in part:
            raise ValueError(f"{run / 'run.json'} is not what it should be: it does not say {'.'.join(names)}")
        part = part[name]
    return part


class Fingerprinted(Protocol):
    """Images of a split."""

    @property
    def fingerprint(self) -> str: ...


def refuse_other_images(runs: Iterable[Path], split: str, images: Fingerprinted) -> None:
    """What is kept is told apart by the images that a run began with, so it is those that must be looked at."""
    for run in runs:
        then = of_run(run, "data", "fingerprints").get(split)
        if then != images.fingerprint:
            raise ValueError(
                f"the {split} images that {run} began with are not those that lie there now (fingerprint "
                f"{str(then)[:12]}, now {images.fingerprint[:12]}), so it cannot be measured on them; put the data "
                "back as it was"
            )


def _are_those(then: Sequence[_Weights], places: Sequence[Path]) -> bool:
    """Whether the weights are those of then; their content is read only where name, size or time are others."""
    if len(then) != len(places):
        return False
    for each, file in zip(then, map(_file, places), strict=True):
        now = _described(file, each.sha256)
        if now != each and (now.size != each.size or _known_sha256(file, now.changed, now.size) != each.sha256):
            return False
    return True


def _file(place: Path) -> Path:
    """Of weights, or those in a run folder."""
    return place / WEIGHTS if place.is_dir() else place


def _described(file: Path, sha256: str) -> _Weights:
    about = file.stat()
    name = file.parent.name if file.name == WEIGHTS else file.name
    return _Weights(name=name, size=about.st_size, changed=about.st_mtime_ns, sha256=sha256)


@cache
def _known_sha256(file: Path, changed: int, size: int) -> str:
    return _sha256(file)


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _plain(value: Any) -> Any:
    """As JSON brings it back."""
    return msgspec.json.decode(msgspec.json.encode(value))


def _digest(value: Any) -> str:
    return hashlib.sha256(msgspec.json.encode(value, order="deterministic")).hexdigest()
