"""What a terminal is told of an evaluation."""

import pytest

from residual.cli.tell import tell, without_pictures


@pytest.mark.parametrize(
    "which, split, spread",
    [
        ("last", "validation", "95 % interval 4.00 to 6.00"),
        ("best", "test", "95 % interval 4.00 to 6.00"),
        ("best", "validation", "no interval: chosen by validation error"),
    ],
)
def test_an_error_that_chose_its_weights_has_no_interval(
    which: str, split: str, spread: str, capsys: pytest.CaptureFixture[str]
):
    found = {"split": split, "images": 100, "top1_error": 5.0, "interval": (4.0, 6.0), "ece": 0.1, "per_class": []}
    tell(which, found)
    assert f"  top-1 error  5.00 %   ({spread})" in capsys.readouterr().out.splitlines()


def test_what_is_printed_has_everything_but_the_pictures():
    assert without_pictures({"top1_error": 5.0, "mistakes": [{"png": "..."}]}) == {"top1_error": 5.0}
