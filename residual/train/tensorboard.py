"""TensorBoard events beside metrics.jsonl, for those who ask for them."""

from pathlib import Path
from typing import Any


class TensorBoard:
    """Writes the numbers of each measurement as scalars; `--tensorboard` of `residual train`."""

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ValueError(
                "--tensorboard needs the package tensorboard, which is not installed: pip install 'residual[logging]', "
                "or leave --tensorboard out; metrics.jsonl holds the same numbers"
            ) from error
        self.folder = folder
        self._open = SummaryWriter
        self._writer: Any = None

    def write(self, measurement: dict[str, Any]) -> None:
        """Every number of one line of metrics.jsonl, at its step."""
        if self._writer is None:
            self._writer = self._open(str(self.folder))
        for name, value in measurement.items():
            if name != "step" and isinstance(value, int | float) and not isinstance(value, bool):
                self._writer.add_scalar(name, value, measurement["step"])
        self._writer.flush()
