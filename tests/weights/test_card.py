import json
from dataclasses import replace

import pytest

from residual.data.transforms import Preprocessing
from residual.models.catalog import describe
from residual.weights.card import MAX_SIDE, Card, from_json, to_json

CARD = Card(
    name="resnet8",
    model=replace(describe("resnet8"), classes=2),
    classes=("cat", "Kätzchen \u2028 🐈"),
    preprocessing=Preprocessing(size=32, resize=36, mean=(1.5, 2.25, 0.1), std=(60.0, 61.0, 62.0)),
    history={"seed": 3, "recipe": {"name": "paper"}, "commit": None},
)


def test_a_card_comes_back_as_it_was_sent():
    assert from_json(to_json(CARD)) == CARD
    assert to_json(from_json(to_json(CARD))) == to_json(CARD)


def test_a_mean_per_pixel_comes_back_to_the_last_digit():
    picture = tuple(0.1 * number for number in range(3 * 4 * 4))
    card = replace(CARD, preprocessing=Preprocessing(size=4, mean=picture))
    assert from_json(to_json(card)).preprocessing.mean == picture


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"format": 2}, "format 2, this version of residual reads 1"),
        ({"classes": ("cat",)}, "names 1 classes, its network has 2 outputs"),
        ({"preprocessing": Preprocessing(size=32, channels="L", mean=(1.0,), std=(1.0,))}, "its network takes 3"),
        ({"preprocessing": Preprocessing(size=32, resize=31)}, "32 pixels cut from 31"),
        ({"preprocessing": Preprocessing(size=32, resize=MAX_SIDE + 1)}, f"from 1 to {MAX_SIDE}"),
        ({"preprocessing": Preprocessing(size=32, mean=(0.0, float("nan"), 0.0))}, "not finite"),
        ({"preprocessing": Preprocessing(size=32, std=(1.0, float("inf"), 1.0))}, "not finite"),
    ],
)
def test_a_card_that_contradicts_itself_is_refused(changes, reason):
    with pytest.raises(ValueError, match=reason):
        replace(CARD, **changes)


@pytest.mark.parametrize(
    "spoil, reason",
    [
        (lambda card: card["preprocessing"].pop("size"), "size"),
        (lambda card: card["preprocessing"].update(channels="CMYK"), "preprocessing.channels"),
        (lambda card: card["model"].update(depths="deep"), "model.depths"),
        (lambda card: card.update(classes=["cat", 7]), "classes"),
        (lambda card: card.update(format=9), "format 9"),
    ],
)
def test_a_card_that_was_tampered_with_is_refused_by_its_field(spoil, reason):
    card = json.loads(to_json(CARD))
    spoil(card)
    with pytest.raises(ValueError, match=rf"its card cannot be read: .*{reason}"):
        from_json(json.dumps(card))


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "null", '"\\ud800"'])
def test_what_is_no_card_is_refused_in_one_sentence(text):
    with pytest.raises(ValueError, match="its card cannot be read"):
        from_json(text)
