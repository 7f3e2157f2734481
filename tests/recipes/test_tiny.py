from dataclasses import replace

from residual.data.assemble import stored_side
from residual.recipes.imagenet import paper_photos
from residual.recipes.tiny import SIDE, paper_tiny
from residual.reproduce.data import DATA


def test_lengths_along_an_image_are_a_quarter_of_the_papers():
    assert SIDE * 4 == 224
    assert stored_side(SIDE) == DATA["tiny-imagenet"].size == 64
    assert tuple(4 * side for side in paper_tiny().augmentation.shorter) == paper_photos().augmentation.shorter


def test_it_passes_over_the_images_as_often():
    passes = paper_photos().length(0) * paper_photos().batch / DATA["imagenet"].train
    assert round(passes) == paper_tiny().epochs == 120


def test_all_else_is_the_papers():
    tiny, paper = paper_tiny(), paper_photos()
    same = replace(tiny, name=paper.name, iterations=paper.iterations, epochs=None, augmentation=paper.augmentation)
    assert same == paper
    assert replace(tiny.augmentation, shorter=paper.augmentation.shorter) == paper.augmentation
