import numpy as np
import pytest
import torch

from residual.data.images import Images
from residual.data.statistics import adapted, measure_preprocessing, network_size
from residual.data.transforms import Normalize, Preprocessing


def some_images(count: int = 50, side: int = 8, channels: int = 3) -> Images:
    rng = np.random.default_rng(0)
    mean = np.array([40.0, 120.0, 200.0])[:channels]
    pixels = rng.normal(mean, [10.0, 20.0, 15.0][:channels], (count, side, side, channels))
    return Images(
        pixels=torch.from_numpy(np.clip(np.rint(pixels), 0, 255).astype(np.uint8)),
        labels=torch.zeros(count, dtype=torch.int64),
        classes=("a",),
        names=tuple(map(str, range(count))),
    )


def test_mean_and_standard_deviation_are_those_of_the_pixels(monkeypatch):
    monkeypatch.setattr("residual.data.statistics.CHUNK", 7)  # 50 is no multiple
    images = some_images()
    found = measure_preprocessing(images, size=8, per_pixel=False, divide=True)
    everything = images.pixels.double().flatten(0, 2)
    assert found.mean == pytest.approx(everything.mean(0).tolist(), abs=0.005)
    assert found.std == pytest.approx(everything.std(0, correction=0).tolist(), abs=0.005)
    assert (found.size, found.resize, found.channels) == (8, None, "RGB")


def test_normalised_training_images_have_mean_0_and_deviation_1():
    images = some_images()
    found = Normalize(measure_preprocessing(images, size=8, per_pixel=False, divide=True))(images.pixels)
    torch.testing.assert_close(found.mean((0, 2, 3)), torch.zeros(3), atol=1e-3, rtol=0)  # two decimals of 10
    torch.testing.assert_close(found.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-3, rtol=0)


def test_the_per_pixel_mean_of_section_4_2_is_the_mean_image_and_nothing_is_divided():
    images = some_images()
    found = measure_preprocessing(images, size=8, per_pixel=True, divide=False)
    picture = images.pixels.double().mean(0).permute(2, 0, 1).flatten()
    assert found.mean == pytest.approx(picture.tolist(), abs=0.005001)
    assert found.std == (1.0, 1.0, 1.0)
    centred = Normalize(found)(images.pixels).mean(0)
    torch.testing.assert_close(centred, torch.zeros(3, 8, 8), atol=0.0051, rtol=0)


def test_of_larger_images_the_centre_is_measured():
    images = some_images(side=10)
    images.pixels[:, 0] = 255  # an edge that the network does not see in evaluation
    found = measure_preprocessing(images, size=8, per_pixel=False, divide=False)
    assert found.resize == 10
    assert found.mean == pytest.approx(images.pixels[:, 1:9, 1:9].double().mean((0, 1, 2)).tolist(), abs=0.005)
    with pytest.raises(ValueError, match="use --recipe modern"):
        measure_preprocessing(images, size=8, per_pixel=True, divide=False)


def test_grey_images_have_one_mean():
    found = measure_preprocessing(some_images(channels=1), size=8, per_pixel=False, divide=True)
    assert (found.channels, len(found.mean), len(found.std)) == ("L", 1, 1)


def test_images_of_one_colour_do_not_divide_by_nothing():
    images = some_images()
    images.pixels[:] = 77
    found = measure_preprocessing(images, size=8, per_pixel=False, divide=True)
    assert found.std == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(("side", "asked", "size"), [(32, None, 32), (146, None, 128), (256, 224, 224), (96, 96, 96)])
def test_the_network_sees_small_images_whole_and_photographs_at_the_size_asked_for(side, asked, size):
    assert network_size(some_images(1, side), asked) == size


def test_a_size_for_images_that_have_their_own_is_refused():
    with pytest.raises(ValueError, match="leave --size out"):
        network_size(some_images(1, 32), 64)


# --- fine-tuning ---

MEASURED = Preprocessing(size=16, resize=18, mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0))


def test_a_network_to_fine_tune_keeps_the_colours_it_knows():
    theirs = Preprocessing(size=224, resize=256, channels="BGR", mean=(104.0, 117.0, 123.0), std=(1.0, 1.0, 1.0))
    found = adapted(theirs, MEASURED)
    assert found == Preprocessing(size=16, resize=18, channels="BGR", mean=(104.0, 117.0, 123.0), std=(1.0, 1.0, 1.0))


def test_a_mean_per_pixel_is_kept_at_its_size_and_averaged_at_another():
    picture = tuple(float(n) for n in range(3 * 4 * 4))
    theirs = Preprocessing(size=4, mean=picture, std=(1.0, 1.0, 1.0))
    assert adapted(theirs, Preprocessing(size=4)).mean == picture
    assert adapted(theirs, MEASURED).mean == (7.5, 23.5, 39.5)
    photographs = Preprocessing(size=4, resize=5)  # stored larger and cropped at random
    assert adapted(theirs, photographs).mean == (7.5, 23.5, 39.5)


def test_of_another_number_of_channels_the_measured_colours_count():
    grey = Preprocessing(size=16, channels="L", mean=(100.0,), std=(50.0,))
    assert adapted(grey, MEASURED) is MEASURED
    assert adapted(MEASURED, grey) is grey
