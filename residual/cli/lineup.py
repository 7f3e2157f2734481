"""Who is measured: networks by themselves, several as one, the mean of their weights, or scores that were kept."""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from filecmp import cmp
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from residual.cli.asked import Asked
from residual.cli.subject import Subject, load_network, pictures_for, refuse_trained_on, training_of
from residual.cli.terminal import working

if TYPE_CHECKING:
    import torch
    from torch import nn

    from residual.cli.subject import Training
    from residual.data.images import ImageFiles, Images
    from residual.evaluate.look import Member
    from residual.evaluate.score import Scores
    from residual.weights.sources import Loaded


@dataclass(frozen=True, kw_only=True)
class Lineup:
    """Who is measured: networks, and which of them count as one."""

    members: "list[Member]"
    named: list[str]  # whose weights
    groups: dict[str, slice]  # of the members, by what they are together
    extra: dict[str, Any]  # for the record


def measured(
    subject: Subject,
    asked: Asked,
    ensemble: list[Path],
    swa: list[Path],
    train_data: str | None,
    keep: Path | None,
) -> dict[str, dict[str, Any]]:
    """Every network by itself, or all as one; each image is read once for all of them."""
    from residual.evaluate.evaluation import evaluation
    from residual.evaluate.protocol import one_crop
    from residual.evaluate.score import score

    lineup = _line_up(subject, asked, ensemble, swa, train_data)
    images = pictures_for(subject, lineup.members, enlarge=asked.scales is not None)
    usual = all(one.protocol == one_crop(one.preprocessing) for one in lineup.members)
    with working(f"measuring {len(images):,} {subject.pictures.split} images") as progress:
        if usual and keep is None and not ensemble:  # exactly as training measured
            scores = {
                which: score(one.model, subject.images, one.preprocessing, subject.device)
                for which, one in zip(lineup.groups, lineup.members, strict=True)
            }
        else:
            scores = _looked(subject, lineup, images, keep, progress)
    return {
        which: evaluation(one, subject.images, split=subject.pictures.split, weights=which) | lineup.extra
        for which, one in scores.items()
    }


def _line_up(subject: Subject, asked: Asked, ensemble: list[Path], swa: list[Path], train_data: str | None) -> Lineup:
    from residual.evaluate.average import STATISTICS

    for path in (*ensemble, *swa):
        refuse_trained_on(subject, path)
    models, extra = dict(subject.models), dict[str, Any]()
    named = [str(path) for path in subject.paths.values()]
    if swa:
        training = training_of(subject, train_data)
        extra = {"averaged": [*named, *map(str, swa)], "statistics_images": min(STATISTICS, len(training[0]))}
        named = ["the mean of " + ", ".join(extra["averaged"])]
        with working(f"measuring batch-norm statistics on {extra['statistics_images']:,} training images"):
            models = {"average": mean_of([subject.model, *map(load_network, swa)], training, subject.device)}
    together = [*models.values(), *(load_network(path).to(subject.device) for path in ensemble)]
    named += map(str, ensemble)
    if ensemble:
        refuse_twice(named, together)
    members = [_member(model, asked, subject) for model in together]
    groups = {which: slice(place, place + 1) for place, which in enumerate(models)}
    if ensemble:
        groups = {"ensemble": slice(None)}
        networks = zip(named, members, strict=True)
        extra["networks"] = [{"weights": name, "protocol": asdict(one.protocol)} for name, one in networks]
    return Lineup(members=members, named=named, groups=groups, extra=extra)


def _looked(
    subject: Subject,
    lineup: Lineup,
    images: "Images | ImageFiles",
    keep: Path | None,
    progress: Callable[[int, int], None],
) -> "dict[str, Scores]":
    """The scores of every group, all from one pass over the images."""
    import torch

    from residual.evaluate.look import combined, look, with_progress
    from residual.evaluate.score import Scores

    said = with_progress(look(lineup.members, images, subject.device), len(images), progress)
    if keep is not None:
        said = _kept(keep, subject, lineup, said)
    parts: dict[str, list[torch.Tensor]] = {which: [] for which in lineup.groups}
    protocols = {which: lineup.members[some][0].protocol for which, some in lineup.groups.items()}
    with closing(said):
        for views in said:
            for which, some in lineup.groups.items():
                parts[which].append(combined(views[some], protocols[which].average))
    labels = images.labels.cpu()
    return {which: Scores(torch.cat(part), labels, protocols[which]) for which, part in parts.items()}


def _member(model: "Loaded", asked: Asked, subject: Subject) -> "Member":
    from residual.evaluate.look import Member, class_order

    card = model.card
    return Member(
        model=model,
        preprocessing=card.preprocessing,
        protocol=asked.protocol(card.preprocessing),
        order=class_order(card.classes, subject.model.card.classes),
    )


def _kept(
    path: Path, subject: Subject, lineup: Lineup, said: "Generator[list[torch.Tensor]]"
) -> "Generator[list[torch.Tensor]]":
    from residual.evaluate.kept import Contents, Seen, keep_scores
    from residual.evaluate.views import names

    contents = Contents(
        names=tuple(subject.images.names),
        classes=subject.images.classes,
        split=subject.pictures.split,
        networks=tuple(
            Seen(weights=name, protocol=one.protocol, views=tuple(names(one.protocol)))
            for name, one in zip(lineup.named, lineup.members, strict=True)
        ),
    )
    return keep_scores(path, contents, subject.images.labels.cpu(), said)


def rescored(paths: list[Path], average: str | None) -> dict[str, dict[str, Any]]:
    """Kept scores, combined again; several files are an ensemble."""
    from residual.evaluate.evaluation import evaluation
    from residual.evaluate.kept import open_scores, rescore

    files = [open_scores(path) for path in paths]
    for place, path in enumerate(paths):
        if other := next((other for other in paths[:place] if cmp(other, path, shallow=False)), None):
            raise _twice(path, "scores", other)
    networks = [seen for file in files for seen in file.contents.networks]
    which = "ensemble" if len(networks) > 1 else "file"
    scores = rescore(files, cast(Literal["probabilities", "logits"] | None, average))
    found = evaluation(scores, files[0], split=files[0].contents.split, weights=which)
    seen = [{"weights": one.weights, "protocol": asdict(one.protocol)} for one in networks]
    return {which: found | {"networks": seen}}


def mean_of(models: "Sequence[Loaded]", training: "Training", device: "torch.device") -> "Loaded":
    """One network with the mean of several weights, its batch-norm statistics measured on training images."""
    from residual.evaluate.average import averaged
    from residual.weights.sources import Loaded

    classes = models[0].card.classes
    if any(one.card.classes != classes for one in models):
        raise ValueError(
            "weights are averaged of networks whose classes are the same, in the same order, and these differ; average "
            "their scores instead: --ensemble"
        )
    model = Loaded(models[0].card).to(device)
    model.load_state_dict(averaged([one.to(device).state_dict() for one in models]))
    return with_statistics(model, training, device)


def with_statistics(model: "Loaded", training: "Training", device: "torch.device") -> "Loaded":
    """The network, changed: its batch-norm statistics are those of the training images."""
    from residual.evaluate.average import measure_statistics

    images, augmentation = training
    measure_statistics(model, images, model.card.preprocessing, device, augmentation=augmentation)
    return model.eval()


def refuse_twice(names: Sequence[str], networks: "Sequence[nn.Module]") -> None:
    """Refuse an ensemble in which the same weights come twice, wherever they lie.  names: of the files or runs."""
    import torch

    states = [network.state_dict() for network in networks]
    for place, state in enumerate(states):
        for other, before in enumerate(states[:place]):
            same = state.keys() == before.keys()
            if same and all(torch.equal(value.cpu(), before[name].cpu()) for name, value in state.items()):
                raise _twice(names[place], "weights", names[other])


def _twice(name: object, what: str, other: object) -> ValueError:
    return ValueError(
        f"--ensemble {name} brings the {what} of {other} a second time; averaged with itself a network says what it "
        "says alone, so leave it out, or combine others"
    )
