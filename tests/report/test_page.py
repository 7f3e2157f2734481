import pytest

from residual.report import page


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (4.21, "4.2 s"),
        (59, "59 s"),
        (61, "1 min"),
        (3599, "1 h 0 min"),
        (8047, "2 h 14 min"),
        (400_000, "4 d 15 h"),
    ],
)
def test_durations_are_told_as_people_do(seconds, words):
    assert page.duration(seconds) == words


def test_facts_keep_the_order_and_the_nesting():
    groups = page.facts({"a_b": 1, "c": {"d": [1, 2], "e": {"f": None}}, "g": True})
    assert [(group.title, group.rows) for group in groups] == [
        ("", (("a b", "1"), ("g", "yes"))),
        ("c", (("d", "1, 2"),)),
        ("c, e", (("f", "none"),)),
    ]


def test_long_lists_are_told_in_short():
    assert page.facts({"mean": [1.0] * 3071 + [2.5]})[0].rows[0][1] == "3,072 numbers from 1 to 2.5"
    assert page.facts({"names": [f"n{i}" for i in range(200)]})[0].rows[0][1] == "200: n0, n1, n2, n3, …, n199"


def test_plurals():
    assert page.plural(1, "image") == "1 image"
    assert page.plural(1200, "image") == "1,200 images"
    assert page.plural(2, "class") == "2 classes"
