"""Networks that this project has trained: their weights come with it, in files of ours beside this one.

residual.load("resnet20_cifar10")

Each tells in its card how it was trained and what error was measured.  They are stored in float16
(`residual weights convert RUN FILE --half`), which is half of the size; no answer to a test image was lost by it.
"""

from pathlib import Path
from typing import Any

from residual.weights import safetensors
from residual.weights.card import from_json

FOLDER = Path(__file__).parent


def names() -> tuple[str, ...]:
    """What `residual.load` finds without a file and without a network."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.safetensors")))


def find(name: str) -> Path | None:
    """The file of a network of this name, if we have trained one."""
    return FOLDER / f"{name}.safetensors" if name in names() else None


def claim(name: str) -> dict[str, Any]:
    """What we say of one of them, under the same keys as `published.claim`."""
    _, metadata = safetensors.header(FOLDER / f"{name}.safetensors")
    card = from_json(metadata[safetensors.KEY])
    history = card.history
    return {
        "network": card.name,
        "weights": name,
        "url": None,
        "top1_error": history["top1_error"],
        "top5_error": None,
        "said_by": f"measured by us on {history['images']:,} {history['split']} images; comes with residual",
    }
