import json
from dataclasses import asdict, fields, replace

import msgspec
import pytest

from residual.models.catalog import catalog, describe
from residual.recipes.catalog import recipe_named
from residual.recipes.identity import identity
from residual.recipes.imagenet import paper_photos
from residual.recipes.modern import modern_small
from residual.recipes.paper import paper, paper_choosing
from residual.recipes.recipe import Recipe
from residual.recipes.stochastic_depth import stochastic_depth
from residual.recipes.wide import wide
from residual.reproduce import ledger
from residual.reproduce.ledger import CIFAR, IDENTITY, IMAGENET, STOCHASTIC, WIDE, Protocol, differences, of_run
from residual.train.optimizer import Lamb
from residual.train.schedule import Schedule

PAPERS = {"cifar": CIFAR, "imagenet": IMAGENET, "identity": IDENTITY, "wide": WIDE, "stochastic depth": STOCHASTIC}


def run(
    recipe: Recipe, *, images: int = 50_000, size: int = 32, resize: int | None = None, budget: float | None = None
) -> dict[str, object]:
    """run.json of a training, as far as the ledger reads it, written and read back."""
    described = {
        "plan": {"budget": budget},
        "recipe": asdict(recipe),
        "preprocessing": {"size": size, "resize": resize, "channels": "RGB"},
        "data": {"counts": {"train": images, "test": 10_000}},
        "precision": "float32",
        "processes": 1,
    }
    return msgspec.json.decode(msgspec.json.encode(described))


def changed(value: object) -> object:
    """Another value for a field of a protocol."""
    match value:
        case bool():
            return not value
        case int() | float():
            return value * 2
        case tuple():
            return value[:1]
        case None:
            return "something"
        case _:
            return f"{value}, differently"


@pytest.mark.parametrize("name", PAPERS)
def test_equal_protocols_do_not_differ(name):
    assert differences(PAPERS[name], PAPERS[name]) == []


@pytest.mark.parametrize("field", [field.name for field in fields(Protocol)])
@pytest.mark.parametrize("name", PAPERS)
def test_each_field_that_is_changed_is_one_difference_and_is_named(name, field):
    paper = PAPERS[name]
    (found,) = differences(paper, replace(paper, **{field: changed(getattr(paper, field))}))
    assert found["what"] == field.replace("_", " ")
    assert found["paper"] != found["ours"]
    assert json.dumps(found)


def told(recipe: Recipe, paper: Protocol = CIFAR) -> dict[str, tuple[str | None, str | None]]:
    return {each["what"]: (each["paper"], each["ours"]) for each in differences(paper, of_run(run(recipe)))}


def test_recipe_paper_agrees_with_section_4_2_in_all_that_the_section_says():
    found = told(paper(20))
    said = {"batch", "iterations", "rate", "drops", "drop factor", "warm up", "momentum", "weight decay", "crop"}
    said |= {"flips", "colour", "normalisation", "loss", "training images", "selection", "test view"}
    assert not said & found.keys()
    assert found["devices"] == ("2", "1")
    assert found["momentum form"] == ("rate inside the velocity", "rate outside the velocity")
    assert found["border"] == ("not said", "mean colour")


@pytest.mark.parametrize(
    ("paper", "recipe", "images", "departures"),
    [
        (
            IMAGENET,
            paper_photos(),
            1_281_167,
            {"devices", "drops", "momentum form", "weight decay on", "normalisation"},
        ),
        (
            IDENTITY,
            identity(),
            50_000,
            {"devices", "images per statistic", "momentum form", "weight decay on", "border"},
        ),
        (WIDE, wide(), 50_000, {"devices", "border"}),
        (STOCHASTIC, stochastic_depth(), 45_000, {"border"}),
    ],
    ids=lambda each: each.name if isinstance(each, Recipe) else "",
)
def test_the_recipes_of_the_papers_depart_from_them_in_these_points_only(paper, recipe, images, departures):
    photos = recipe.augmentation.crop == "scaled"
    ours = of_run(run(recipe, images=images, size=224 if photos else 32, resize=256 if photos else None))
    found = {each["what"] for each in differences(paper, ours)}
    assert found - {"initialisation", "statistics at test time"} == departures


def test_the_warm_up_belongs_to_110_layers_and_more():
    for layers in (20, 56):
        assert ledger.cifar(describe(f"resnet{layers}")).warm_up == of_run(run(paper(layers))).warm_up == "none"
    for layers in (110, 1202):
        warm_up = ledger.cifar(describe(f"resnet{layers}")).warm_up
        assert warm_up == of_run(run(paper(layers))).warm_up == "0.01 until the training error is below 80 %"


@pytest.mark.parametrize(
    ("recipe", "what", "pair"),
    [
        (replace(paper(), batch=256), "batch", ("128", "256")),
        (replace(paper(), iterations=32_000), "drops", ("32,000, 48,000", "16,000, 24,000")),
        (replace(paper(), batch_norm_group=64), "images per statistic", None),
        (replace(paper(), batch_norm_group=32), "images per statistic", ("64", "32")),
        (replace(paper(), accumulate=4), "images per statistic", ("64", "32")),
        (replace(paper(), mean="channel", std=True), "normalisation", (ledger.PIXEL, ledger.CHANNEL + ledger.BY_STD)),
        (replace(paper(), exact_statistics=0), "statistics at test time", (ledger.EXACT, ledger.MOVING)),
        (replace(paper(), average=0.99), "selection", ("last iteration", "moving average of the last iterations")),
        (replace(paper(), label_smoothing=0.1), "loss", ("cross-entropy", "cross-entropy, 0.1 of the target spread")),
        (replace(paper(), lamb=Lamb(), optimizer=type(paper().optimizer)()), "weight decay", ("0.0001", "0.01")),
        (replace(paper(), schedule=Schedule(shape="cosine", rate=0.1)), "drops", ("32,000, 48,000", "cosine, to zero")),
        (
            replace(paper(), schedule=replace(paper().schedule, hold=400 / 64_000)),
            "warm up",
            ("none", "0.01 for 400 iterations"),
        ),
    ],
)
def test_what_a_recipe_changes_is_told(recipe, what, pair):
    assert told(recipe).get(what) == pair


def test_validation_images_choose_and_are_missing_in_training():
    found = differences(CIFAR, of_run(run(paper_choosing(), images=45_000)))
    assert ("selection", "lowest validation error") in [(each["what"], each["ours"]) for each in found]
    assert ("training images", "45,000") in [(each["what"], each["ours"]) for each in found]


def test_of_a_training_against_the_clock_the_length_is_not_known_beforehand():
    ours = of_run(run(modern_small(), budget=600.0))
    assert ours.iterations is None
    assert ours.drops == "linear, to zero"


@pytest.mark.parametrize("name", [name for name, network in catalog.items() if network.stem == "cifar"])
def test_the_ledger_reads_every_recipe_for_small_images(name):
    for recipe in ("paper", "paper-choosing", "modern"):
        assert of_run(run(recipe_named(recipe, describe(name)))).training_images == 50_000


def test_a_difference_that_several_runs_share_is_told_once():
    ours = [of_run(run(paper(layers))) for layers in (20, 32, 110)]
    papers = [ledger.cifar(describe(f"resnet{layers}")) for layers in (20, 32, 110)]
    assert ledger.ledger(zip(papers, ours, strict=True)) == differences(papers[0], ours[0])
    assert len(ledger.ledger([(papers[0], ours[0]), (papers[2], ours[0])])) == len(differences(papers[2], ours[0]))
