"""ImageNet's classes under all their names, against torchvision's and timm's own lists."""

from importlib.resources import files

import pytest
from torchvision.models import ResNet18_Weights

from residual.data.synsets import synsets, synsets_of


def test_a_thousand_ids_in_their_order_have_torchvision_s_names() -> None:
    ids = list(synsets())
    assert len(ids) == 1000
    assert ids == sorted(ids)
    assert list(synsets().values()) == ResNet18_Weights.IMAGENET1K_V1.meta["categories"]


def words_of_wordnet() -> dict[str, str]:
    pytest.importorskip("timm")
    places = files("timm.data") / "_info"
    words = dict(line.split("\t") for line in (places / "imagenet_synset_to_lemma.txt").read_text().splitlines())
    return {synset: words[synset] for synset in (places / "imagenet_synsets.txt").read_text().split()}


def test_ids_and_all_words_of_a_synset_mean_the_same_class() -> None:
    words = words_of_wordnet()
    assert tuple(words) == tuple(synsets()) == synsets_of(tuple(words)) == synsets_of(tuple(words.values()))


def test_by_itself_every_name_means_its_class_but_one_of_two_cranes() -> None:
    for synset, words in words_of_wordnet().items():
        assert synsets_of([words]) == ("n03126707" if words == "crane" else synset,)


def test_other_names_mean_none_of_them() -> None:
    assert synsets_of(["", "cat", "n01440765", "Tench", "goldfish"]) == (None, None, None, None, "n01443537")
    assert synsets_of([str(number) for number in range(1000)]) == (None,) * 1000
