import pytest

from residual.recipes.paper import paper, paper_choosing
from residual.train.schedule import Pace


def test_section_4_2_in_numbers():
    recipe = paper()
    assert recipe.length(50_000) == 64_000
    assert recipe.batch == 128
    assert (recipe.optimizer.momentum, recipe.optimizer.decay, recipe.optimizer.nesterov) == (0.9, 1e-4, False)
    assert recipe.optimizer.decay_all
    assert (recipe.mean, recipe.std) == ("pixel", False)
    crop = recipe.augmentation
    assert (crop.crop, crop.pad, crop.flip, crop.mixup, crop.cutmix) == ("pad", 4, True, 0, 0)
    assert (recipe.label_smoothing, recipe.average, recipe.precision) == (0, None, "float32")


@pytest.mark.parametrize(
    ("step", "rate"), [(0, 0.1), (31_999, 0.1), (32_000, 0.01), (47_999, 0.01), (48_000, 0.001), (63_999, 0.001)]
)
def test_the_rate_begins_at_a_tenth_and_drops_at_32k_and_48k(step, rate):
    recipe = paper(56)
    assert Pace(recipe.schedule, recipe.length(50_000)).rate(step) == pytest.approx(rate)


@pytest.mark.parametrize("depth", [20, 32, 44, 56])
def test_below_110_layers_there_is_no_warm_up(depth):
    schedule = paper(depth).schedule
    assert (schedule.warmup, schedule.warmup_error) == (0, None)


@pytest.mark.parametrize("depth", [110, 1202])
def test_from_110_layers_the_rate_is_a_hundredth_until_the_training_error_is_below_80_percent(depth):
    schedule = paper(depth).schedule
    assert (schedule.warmup_rate, schedule.warmup_error) == (0.01, 80.0)
    assert Pace(schedule, 64_000).rate(0) == 0.01


def test_the_length_is_in_iterations_whatever_the_number_of_images():
    assert paper().length(45_000) == paper().length(50_000) == 64_000


def test_the_schedule_was_chosen_with_a_tenth_held_out():
    assert paper().validation == 0
    assert paper_choosing(110).validation == 0.1
    assert paper_choosing(110).schedule == paper(110).schedule
