"""residual evaluate of a detector: how precisely it finds, how a localizer places, and what each improvement brings."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from residual.cli.asked import sides_of
from residual.cli.lineup import refuse_twice
from residual.cli.subject_objects import Ground, open_detectors, open_ground, open_member, refuse_seen
from residual.cli.tell import without_pictures
from residual.cli.tell_objects import tell, tell_localizer, tell_rows
from residual.cli.terminal import next_step, refuse_new_file, working

if TYPE_CHECKING:
    from residual.detect.card import DetectorCard
    from residual.detect.detector import Detector
    from residual.detect.procedure import Procedure

PROTOCOLS = ("plain", "box-refinement", "multi-scale", "improved", "each")


def evaluate_objects(
    weights: Path,
    *,
    data: str | None,
    lists: str | None,
    protocol: str | None,
    scales: str | None,
    ensemble: Sequence[Path],
    classes: Path | None,
    one_step: bool,
    device: str,
    workers: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Measure a detector on images with objects, and say or write what was found.

    lists: of the images, as in training.  protocol: of `PROTOCOLS`; None is plain.
    ensemble: detectors that judge together with this one.
    classes, one_step: of a localizer: a classification run that tells the classes; its first step alone.
    """
    from residual.records import write_json
    from residual.train.precision import Precision, keep_freed_memory, pick_device, settle

    if out is not None:
        refuse_new_file(out)
    alone = bool(ensemble) or protocol == "each"
    detectors = open_detectors(weights, first=alone)
    first = next(iter(detectors.values()))
    card = first.card
    asked = _asked(card, protocol, scales, several=bool(ensemble), localizes=(classes is not None, one_step))
    others = [open_member(path, card) for path in ensemble]
    refuse_twice([str(weights), *map(str, ensemble)], [first, *others])
    keep_freed_memory()
    place = pick_device(device)
    settle(Precision(place, False))
    ground = open_ground(weights, card, data, lists, workers)
    for path in ensemble:
        refuse_seen(path, ground, workers, "combine runs with the same --seed, or measure on other images")
    for each in (*detectors.values(), *others):
        each.to(place)
    found: dict[str, Any]
    rows: list[dict[str, Any]] = []
    if card.localizer is not None:
        found = _localized(detectors, ground, asked, classes, second=not one_step, workers=workers)
    elif protocol == "each":
        rows = _one_after_the_other(detectors, others, ground, asked, workers)
        found = {"rows": rows}
    else:
        found = _measured(detectors, others, ground, next(iter(asked.values())), workers)
    if out is not None:
        write_json(out, found)
    if as_json:
        slim = found if rows else {name: without_pictures(each) for name, each in found.items()}
        print(json.dumps(slim, indent=2))
        return
    if rows:
        tell_rows(rows)
    else:
        for which, told in found.items():
            if card.localizer is not None:
                tell_localizer(which, told)
            else:
                tell(which, told, masks=card.masks)
    print(next_step("detect", weights, "IMAGE"))


def refuse_others(given: Mapping[str, Any]) -> None:
    """Refuse, by name, the options of classifiers that a detector has no use for.  given: by name, None if not."""
    if wrong := [name for name, value in given.items() if value not in (None, False, [])]:
        raise ValueError(
            f"{wrong[0]} is for networks that classify, and this is a detector; leave it out.  A detector's test is "
            f"chosen with --protocol {'|'.join(PROTOCOLS)}, --scales and --ensemble"
        )


# --- how it is tested ------------------------------------------------------------------------------------------------


def _asked(
    card: "DetectorCard",
    protocol: str | None,
    scales: str | None,
    *,
    several: bool,
    localizes: tuple[bool, bool],
) -> "dict[str, Procedure]":
    """The procedures to measure, by what they are called in a table; a localizer's one."""
    sides = None if scales is None else sides_of(scales)
    if card.localizer is not None:
        if protocol is not None or several:
            wrong = "--ensemble" if several else f"--protocol {protocol}"
            raise ValueError(
                f"{card.name} is a localizer, so {wrong} is not of its test; it is chosen with --classes RUN, "
                "--scales N,N,... and --one-step"
            )
        return {"": replace(card.procedure, sides=sides or ())}
    if any(localizes):
        wrong = "--classes" if localizes[0] else "--one-step"
        raise ValueError(f"{wrong} is of a localizer's test, and {card.name} finds classes itself; leave it out")
    name = protocol or PROTOCOLS[0]
    if name not in PROTOCOLS:
        raise ValueError(f"there is no protocol {name!r} for a detector; choose one of: {', '.join(PROTOCOLS)}")
    if card.cascade is not None and name != "plain":
        raise ValueError(
            f"{card.name} is a cascade, which looks at its boxes again and lets masks vote as it is; --protocol {name} "
            "is for Faster R-CNN and Mask R-CNN, so leave it out"
        )
    if sides is not None and name not in ("multi-scale", "improved", "each"):
        raise ValueError(f"--scales is not of protocol {name}; leave it out, or choose --protocol multi-scale")
    return procedures(card.procedure, name, sides)


def procedures(own: "Procedure", protocol: str, sides: tuple[int, ...] | None = None) -> "dict[str, Procedure]":
    """Of a detector that is tested as `own` says.  sides: of multi-scale testing; None: the paper's, in proportion."""
    from residual.serve.detect import improved

    best = improved(own) if sides is None else replace(improved(own), sides=sides)
    plain = replace(own, sides=(), refined=False, voters=None)
    refined = replace(plain, refined=True)
    voted = replace(refined, voters=best.voters)
    return {
        "plain": {"plain": plain},
        "box-refinement": {"box refinement": voted},
        "multi-scale": {"multi-scale": replace(plain, sides=best.sides, widest=best.widest)},
        "improved": {"improved": best},
        "each": {"plain": plain, "+ box refinement": refined, "+ box voting": voted, "+ multi-scale testing": best},
    }[protocol]


# --- what is measured ------------------------------------------------------------------------------------------------


def _measured(
    detectors: "dict[str, Detector]",
    others: "Sequence[Detector]",
    ground: Ground,
    procedure: "Procedure",
    workers: int,
    *,
    pictures: bool = True,
) -> dict[str, dict[str, Any]]:
    """By the name of what is measured.  pictures: of the worst mistakes."""
    from residual.detect.evaluation import evaluate_detector
    from residual.detect.worst import MISTAKES

    found = {}
    for name, detector in detectors.items():
        which = "ensemble" if others else name
        with working(_measuring(ground)) as progress:
            found[which] = evaluate_detector(
                [detector, *others],
                ground.own,
                split=ground.split,
                weights=which,
                procedure=procedure,
                workers=workers,
                progress=progress,
                mistakes=MISTAKES if pictures else 0,
            )
    return found


def _one_after_the_other(
    detectors: "dict[str, Detector]",
    others: "Sequence[Detector]",
    ground: Ground,
    asked: "dict[str, Procedure]",
    workers: int,
) -> list[dict[str, Any]]:
    """Every row one improvement more than the row before it; with others, their ensemble last.  Without pictures."""
    tests: list[tuple[str, Sequence[Detector], Procedure]] = [(name, (), how) for name, how in asked.items()]
    if others:
        tests.append((f"+ ensemble of {1 + len(others)}", others, tests[-1][2]))
    rows = []
    for name, together, how in tests:
        (found,) = _measured(detectors, together, ground, how, workers, pictures=False).values()
        rows.append({"what": name} | without_pictures(found))
    return rows


def _localized(
    detectors: "dict[str, Detector]",
    ground: Ground,
    asked: "dict[str, Procedure]",
    classes: Path | None,
    *,
    second: bool,
    workers: int,
) -> dict[str, dict[str, Any]]:
    from residual.detect.localizer_evaluation import evaluate_localizer, localizing
    from residual.serve.classes import surest_classes

    (procedure,) = asked.values()
    found = {}
    for which, detector in detectors.items():
        place = next(detector.parameters()).device
        classify = None if classes is None else surest_classes(classes, detector.card.classes, place)
        find, placed = localizing(detector, procedure.sides, second=second, classify=classify)
        with working(_measuring(ground)) as progress:
            found[which] = evaluate_localizer(
                find,
                placed,
                ground.own,
                split=ground.split,
                weights=which,
                classes_from="itself" if classes is None else str(classes),
                sides=procedure.sides,
                second=second,
                workers=workers,
                progress=progress,
            )
    return found


def _measuring(ground: Ground) -> str:
    split = "" if ground.split == "all" else f"{ground.split} "
    return f"measuring {len(ground.own):,} {split}images"
