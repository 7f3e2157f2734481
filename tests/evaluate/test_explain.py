"""Why a number differs: one thing at a time, paired, and no more claimed than the images show."""

import re
from dataclasses import asdict, replace

import pytest
import torch

from residual.data.transforms import Preprocessing
from residual.evaluate.explain import Row, Setting, Variation, best_guess, by_effect, explain, variations
from residual.evaluate.protocol import one_crop, ten_crop
from residual.evaluate.score import Scores

PHOTOS = Preprocessing(size=224, resize=256, mean=(104, 117, 124), std=(1, 1, 1))
CIFAR = Preprocessing(size=32, mean=(125,) * 3 * 32 * 32)
STATED = Setting(protocol=one_crop(PHOTOS), preprocessing=PHOTOS)


def wrong(*places: int, of: int = 10) -> Scores:
    """Two classes, the first one true; some images are taken for the second."""
    logits = torch.zeros(of, 2)
    logits[:, 1] = -1
    logits[list(places), 1] = 1
    return Scores(logits, torch.zeros(of, dtype=torch.int64))


def row(what: str, error: float, effect: float, p: float = 0.001) -> Row:
    return Row(what=what, error=error, effect=effect, interval=(0, 0), p=p, became_wrong=0, became_right=0)


def test_effects_are_paired_and_come_one_by_one():
    answers = {"last": wrong(0, 1), "worse": wrong(0, 2, 3, 4), "better": wrong(1), "same": wrong(0, 1)}
    asked = []

    def score(setting: Setting) -> Scores:
        asked.append(setting.weights)
        return answers[setting.weights]

    planned = [Variation(what=name, setting=replace(STATED, weights=name)) for name in ("worse", "better", "same")]
    rows = explain(STATED, planned, score)
    assert (next(rows).error, asked) == (20, ["last"])
    worse, better, same = rows
    assert (worse.effect, worse.became_wrong, worse.became_right) == (pytest.approx(20), 3, 1)
    assert (better.error, better.effect) == (pytest.approx(10), pytest.approx(-10))
    assert worse.p == pytest.approx(10 / 16)  # of four that changed sides, three or more on one side
    assert worse.interval[0] < 20 < worse.interval[1]
    assert (same.effect, same.p) == (0, 1)
    assert same.interval[0] < 0 < same.interval[1]


def test_a_network_without_numbers_explains_nothing():
    nothing = Scores(torch.full((3, 2), torch.nan), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="not finite"):
        next(explain(STATED, [], lambda _: nothing))


def test_the_largest_effect_comes_first_whichever_its_direction():
    rows = [row("as stated", 8, 0), row("a", 8.5, 0.5), row("b", 6, -2), row("c", 9, 1)]
    assert [one.what for one in by_effect(rows)] == ["as stated", "b", "c", "a"]


GUESSES = {
    "one is near": ([row("as stated", 8.75, 0), row("mirror", 8.25, -0.5), row("BGR", 20, 11)], "mirror, which gives"),
    "two are as near": (
        [row("as stated", 8.75, 0), row("x", 8.25, -0.5), row("y", 8.25, -0.5)],
        r"x \(and so does: y\)",
    ),
    "the near one is noise": ([row("as stated", 8.75, 0), row("mirror", 8.25, -0.5, p=0.4)], "weak guess"),
    "none is nearer": ([row("as stated", 8.3, 0), row("BGR", 20, 11)], "No single change .* 8.30 % .0.03 points"),
    "nothing was changed": ([row("as stated", 8.75, 0)], "No single change"),
}


@pytest.mark.parametrize("rows, words", GUESSES.values(), ids=GUESSES.keys())
def test_the_best_guess_is_one_sentence(rows: list[Row], words: str):
    sentence = best_guess(rows, 8.27)
    assert sentence.startswith(("Best guess for the claimed 8.27 %", "No single change"))
    assert sentence.endswith(".")
    assert re.search(words, sentence)
    assert ("weak" in sentence) == any(one.p == 0.4 for one in rows)


def test_nobody_claims_more_than_all():
    with pytest.raises(ValueError, match="0 to 100"):
        best_guess([row("as stated", 8, 0)], 827)


def changed(setting: Setting, stated: Setting) -> set[str]:
    """Names of what differs, down to the fields of protocol and preprocessing."""
    before, after = asdict(stated), asdict(setting)
    inner = {
        f"{part}.{name}"
        for part in ("protocol", "preprocessing")
        for name in before[part]
        if before[part][name] != after[part][name]
    }
    return inner | {name for name in ("weights", "statistics") if before[name] != after[name]}


def test_photographs_are_varied_in_every_way():
    found, without = variations(STATED, weights=("best",), exact=1000)
    what = {one.what: changed(one.setting, STATED) for one in found}
    assert what["weights: best"] == {"weights"}
    assert what["batch-norm statistics of 1,000 training images"] == {"statistics"}
    assert what["channels in the order BGR"] == {"preprocessing.channels"}
    assert what["computed in bfloat16"] == {"protocol.precision"}
    assert what["resized by a bicubic filter"] == {"protocol.interpolation"}
    assert what["resized without antialiasing"] == {"protocol.antialias"}
    for side in (232, 224):
        assert what[f"shorter side {side}"] == {"protocol.resize"}
    assert "shorter side 256" not in what  # that is the stated one
    assert what["the whole image squeezed to 224 x 224"] == {"protocol.resize"}
    assert what["averaged with its mirror image"] == {"protocol.flips"}
    assert {"ten crops, probabilities averaged", "five scales, fully convolutional"} < set(what)
    assert "stored at another size" in without["one mean per pixel"]


def test_small_images_are_not_resized_and_the_reason_is_given():
    stated = Setting(protocol=one_crop(CIFAR), preprocessing=CIFAR)
    found, without = variations(stated, originals=False)
    what = {one.what: changed(one.setting, stated) for one in found}
    assert what["one mean per channel"] == {"preprocessing.mean"}
    assert set(what) == {
        "one mean per channel", "channels in the order BGR", "computed in bfloat16", "averaged with its mirror image",
        "ten crops, probabilities averaged",
    }  # fmt: skip
    assert set(without) == {"other weights", "batch-norm statistics", "filter, shorter side and crop", "multi-scale"}


def test_a_mean_image_stands_against_one_mean_per_channel():
    flat = replace(CIFAR, mean=(125, 125, 125))
    found, _ = variations(
        Setting(protocol=one_crop(flat), preprocessing=flat), mean_image=CIFAR.mean, exact=10, originals=False
    )
    (pixel,) = (one for one in found if one.what == "one mean per pixel")
    assert pixel.setting.preprocessing == CIFAR


@pytest.mark.parametrize("grey", [True, False])
def test_whatever_is_varied_is_a_sound_setting_of_its_own(grey: bool):
    """No variation is the stated one, and none comes twice."""
    preprocessing = replace(PHOTOS, channels="L", mean=(100,), std=(1,)) if grey else PHOTOS
    once = one_crop(preprocessing)
    for protocol in (once, ten_crop(once), replace(ten_crop(once), corners="image", average="logits")):
        stated = Setting(protocol=protocol, preprocessing=preprocessing)
        found, without = variations(stated, weights=("best",), exact=5)
        settings = [one.setting for one in found]
        assert stated not in settings
        assert len({repr(setting) for setting in settings}) == len(settings) == len({one.what for one in found})
        assert ("RGB against BGR" in without) == grey
