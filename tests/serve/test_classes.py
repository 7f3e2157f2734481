from residual.data.synsets import synsets
from residual.serve.classes import by_id


def test_imagenets_classes_are_the_same_by_their_names_and_by_their_ids():
    names, ids = tuple(synsets().values()), tuple(synsets())
    assert by_id(names) == by_id(ids) == ids


def test_other_classes_stay_as_they_are():
    assert by_id(("circle", "square")) == ("circle", "square")
    assert by_id(("n01440764", "n99999999")) == ("n01440764", "n99999999"), "not all are ImageNet's"
