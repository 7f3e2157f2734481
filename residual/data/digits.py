"""Handwritten digits that come with scikit-learn: 1,797 grey images of 8 x 8 pixels, nothing to download.

E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI repository, 1998 (its test part).
"""

import numpy as np
import torch

from residual.data.assemble import held_out
from residual.data.images import Dataset, Images

TEST = 0.2  # share of each class


def read_digits() -> Dataset:
    """Pixels 0..16 become 0..255.  The fixed split: a fifth of each class is the test set."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    everything = Images(
        pixels=torch.from_numpy(grey[..., None]),
        labels=torch.from_numpy(digits.target.astype(np.int64)),
        classes=tuple(str(name) for name in digits.target_names),
        names=tuple(f"digits:{number}" for number in range(len(grey))),
    )
    held = held_out(everything.names, everything.labels, share=TEST, seed=0)
    train, test = everything.select((~held).nonzero()[:, 0]), everything.select(held.nonzero()[:, 0])
    return Dataset(
        train=train,
        test=test,
        classes=everything.classes,
        origin="digits of scikit-learn",
        split={"made": f"{TEST:.0%} of each class held out", "train": len(train), "test": len(test)},
        sizes={"8x8": len(grey)},
    )
