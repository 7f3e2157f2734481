"""What a terminal is told of the test of a detector."""

from dataclasses import asdict, replace

from residual.cli.tell_objects import in_words
from residual.detect.procedure import IMPROVED, Procedure


def test_a_procedure_is_told_in_words():
    assert in_words(asdict(IMPROVED)) == (
        "shorter side 600 pixels, longer at most 1000; regions at sides 200, 400, 600, 800, 1000; boxes judged again; "
        "boxes vote"
    )
    kept = replace(Procedure(side=600, longest=1000), side=512, shrink=False, sides=(341, 512))
    assert in_words(asdict(kept)) == (
        "shorter side at least 512 pixels, longer at most 1000, nothing else shrunk; regions at sides 341, 512, of "
        "larger images in proportion"
    )
