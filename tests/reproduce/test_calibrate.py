import pytest

from residual.models.catalog import describe
from residual.models.cost import macs
from residual.recipes.paper import paper
from residual.reproduce.calibrate import (
    LOOKS,
    NARROW,
    WIDE,
    Calibration,
    Price,
    _price,
    calibrate,
    looks,
    mean,
)
from residual.reproduce.experiment import Setting
from residual.reproduce.store import shortened

PAPER = Setting(model="resnet20", recipe=paper(), data="cifar10")


def test_the_price_goes_through_both_measured_networks():
    true = Price(mac=2e-11, layer=1e-5)
    found = _price(true.of(NARROW, 32), true.of(WIDE, 32))
    assert (found.mac, found.layer) == pytest.approx((true.mac, true.layer))


def test_no_part_of_the_price_is_negative():
    for narrow, wide in ((1e-3, 1e-2), (1e-2, 1e-3)):
        price = _price(narrow, wide)
        assert price.mac >= 0
        assert price.layer >= 0
        assert price.of(NARROW, 32) >= narrow * (1 - 1e-9)
        assert price.of(WIDE, 32) >= wide * (1 - 1e-9)


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
    assert found.learning["float32"].of(NARROW, 32) > found.looking["float32"].of(NARROW, 32) > 0


def test_several_measurements_are_averaged():
    one, three = (
        Calibration(learning={"auto": Price(mac=n, layer=n)}, looking={"auto": Price(mac=0, layer=n)}) for n in (1, 3)
    )
    both = mean([one, three])
    assert both.learning["auto"] == Price(mac=2, layer=2)
    assert both.looking["auto"] == Price(mac=0, layer=2)
