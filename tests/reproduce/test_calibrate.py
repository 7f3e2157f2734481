import pytest

from residual.models.catalog import describe
from residual.models.cost import layers, macs
from residual.recipes.paper import paper
from residual.reproduce.arithmetic import Load
from residual.reproduce.calibrate import (
    LARGE,
    LOOKS,
    NARROW,
    SMALL,
    WIDE,
    Calibration,
    Price,
    _price,
    calibrate,
    kind_of,
    looks,
    mean,
)
from residual.reproduce.detectors import on_scenes
from residual.reproduce.experiment import Setting
from residual.reproduce.store import shortened

PAPER = Setting(model="resnet20", recipe=paper(), data="cifar10")
LOADS = [Load(macs(each, 32), layers(each)) for each in (NARROW, WIDE)]


def test_the_price_goes_through_both_measured_networks():
    true = Price(mac=2e-11, layer=1e-5)
    found = _price(LOADS, *map(true.of, LOADS))
    assert (found.mac, found.layer) == pytest.approx((true.mac, true.layer))


def test_no_part_of_the_price_is_negative():
    for times in ((1e-3, 1e-2), (1e-2, 1e-3)):
        price = _price(LOADS, *times)
        assert price.mac >= 0
        assert price.layer >= 0
        for load, seconds in zip(LOADS, times, strict=True):
            assert price.of(load) >= seconds * (1 - 1e-9)


def test_a_deeper_network_costs_what_its_arithmetic_says():
    by_macs = Calibration(learning={"float32": Price(mac=1e-11, layer=0)}, looking={"float32": Price(mac=0, layer=0)})
    deep = Setting(model="resnet56", recipe=paper(), data="cifar10")
    ratio = (by_macs.seconds(deep) - by_macs.start) / (by_macs.seconds(PAPER) - by_macs.start)
    assert abs(ratio - macs(describe("resnet56")) / macs(describe("resnet20"))) < 1e-9
    whole = 64_000 * 128 * 1e-11 * macs(describe("resnet20"))
    assert by_macs.seconds(PAPER) - by_macs.start == pytest.approx(whole)


def test_a_short_training_looks_less_often(setting):
    assert looks(PAPER) == LOOKS
    assert looks(shortened(PAPER, 1_000)) == 3, "0.3 of 128,000 images, in sets of 10,000"
    assert looks(setting(iterations=1)) == 2


def test_this_machine_is_measured_in_the_formats_asked_for():
    found = calibrate({"float32", "auto"}, device="cpu", seconds=0.01)
    assert set(found.learning) == set(found.looking) == {"float32", "auto"}
    assert found.learning["float32"].of(LOADS[0]) > found.looking["float32"].of(LOADS[0]) > 0


def test_a_detector_is_timed_as_a_detector():
    kind = kind_of(SMALL)
    assert kind != kind_of(PAPER)
    found = calibrate({kind}, device="cpu", seconds=0.01)
    assert set(found.learning) == {kind}
    assert found.seconds(LARGE) > found.seconds(SMALL) > found.start


def test_a_detector_costs_its_iterations_and_its_looks():
    setting = on_scenes("faster_rcnn_small_c4")
    free, dear = Price(mac=0, layer=0), Price(mac=0, layer=0.5)
    kind, recipe = kind_of(setting), setting.recipe
    learning = Calibration(learning={kind: dear}, looking={kind: free}, start=0)
    assert learning.seconds(setting) == recipe.iterations * recipe.batch * 0.5
    looking = Calibration(learning={kind: free}, looking={kind: dear}, start=0)
    assert looking.seconds(setting) == (LOOKS * 200 + 2 * 200) * 0.5


def test_several_measurements_are_averaged():
    one, three = (
        Calibration(learning={"auto": Price(mac=n, layer=n)}, looking={"auto": Price(mac=0, layer=n)}) for n in (1, 3)
    )
    both = mean([one, three])
    assert both.learning["auto"] == Price(mac=2, layer=2)
    assert both.looking["auto"] == Price(mac=0, layer=2)
