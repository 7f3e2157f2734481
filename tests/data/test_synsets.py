"""ImageNet's classes under all their names, against torchvision's and timm's own lists."""

import re
from importlib.resources import files

import pytest
from torchvision.models import ResNet18_Weights

from residual.data.synsets import det_synsets, synsets, synsets_of


def test_a_thousand_ids_in_their_order_have_torchvision_s_names() -> None:
    ids = list(synsets())
    assert len(ids) == 1000
    assert ids == sorted(ids)
    assert list(synsets().values()) == ResNet18_Weights.IMAGENET1K_V1.meta["categories"]


def all_words_of_wordnet() -> dict[str, str]:
    pytest.importorskip("timm")
    path = files("timm.data") / "_info" / "imagenet_synset_to_lemma.txt"
    return dict(line.split("\t") for line in path.read_text().splitlines())


def words_of_wordnet() -> dict[str, str]:
    words = all_words_of_wordnet()
    return {synset: words[synset] for synset in (files("timm.data") / "_info/imagenet_synsets.txt").read_text().split()}


def test_two_hundred_names_of_the_detection_task_are_words_of_their_synsets() -> None:
    words, named = all_words_of_wordnet(), det_synsets()
    assert len(named) == len(set(named.values())) == 200
    assert [*named.values()][::199] == ["accordion", "zebra"]

    def parts(text: str) -> set[str]:
        return set(re.findall("[a-z]+", text.lower()))

    others = {name for synset, name in named.items() if not parts(name) & parts(words[synset])}
    assert others == {"bookshelf", "tv or monitor"}  # bookcase; display, video display


def test_ids_and_all_words_of_a_synset_mean_the_same_class() -> None:
    words = words_of_wordnet()
    assert tuple(words) == tuple(synsets()) == synsets_of(tuple(words)) == synsets_of(tuple(words.values()))


def test_by_itself_every_name_means_its_class_but_one_of_two_cranes() -> None:
    for synset, words in words_of_wordnet().items():
        assert synsets_of([words]) == ("n03126707" if words == "crane" else synset,)


def test_other_names_mean_none_of_them() -> None:
    assert synsets_of(["", "cat", "n01440765", "Tench", "goldfish"]) == (None, None, None, None, "n01443537")
    assert synsets_of([str(number) for number in range(1000)]) == (None,) * 1000
