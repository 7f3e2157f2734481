import torch

from residual.data.digits import read_digits


def test_digits_are_split_by_class_and_scaled_to_bytes():
    data = read_digits()
    assert (len(data.train), len(data.test), data.validation) == (1438, 359, None)
    assert data.train.shape == (8, 8, 1)
    assert int(data.train.pixels.max()) == 255
    assert set(torch.unique(data.train.pixels).tolist()) <= {round(level * 255 / 16) for level in range(17)}
    assert data.classes == tuple("0123456789")
    assert not set(data.train.names) & set(data.test.names)
    assert min(data.test.labels.bincount()) >= 34


def test_the_split_is_the_same_every_time():
    assert read_digits().test.fingerprint == read_digits().test.fingerprint
