"""Deep residual learning, whole: train, measure and use residual networks.

import residual

model = residual.create_model("resnet20")            # random weights
model = residual.load("runs/resnet20")               # what a run has trained, or anybody's file of weights
model = residual.load("resnet50", weights="torchvision", download=True)
residual.list_models()

detector = residual.load_detector("runs/faster_rcnn")  # detector.find(pixels): boxes, classes, probabilities, masks
"""

from typing import TYPE_CHECKING, Any

from residual.models.catalog import describe, list_models

if TYPE_CHECKING:
    from residual.detect.weights import load as load_detector
    from residual.models.resnet import ResNet
    from residual.weights.sources import load

__version__ = "0.1.0"
__all__ = ["__version__", "create_model", "describe", "list_models", "load", "load_detector"]


def create_model(name: str, **changes: Any) -> "ResNet":
    """A network with random weights: the catalog's `name` with some fields of its description changed.

    `create_model("resnet20", classes=100)`.  Raises ValueError for an unknown name, depth or field.
    """
    from residual.models.catalog import varied
    from residual.models.resnet import ResNet

    return ResNet(varied(describe(name), changes))


def __getattr__(name: str) -> Any:
    """`residual.load` and `residual.load_detector` import PyTorch only when they are asked for."""
    if name == "load":
        from residual.weights.sources import load

        return load
    if name == "load_detector":
        from residual.detect.weights import load as load_detector

        return load_detector
    raise AttributeError(f"module 'residual' has no attribute {name!r}")
