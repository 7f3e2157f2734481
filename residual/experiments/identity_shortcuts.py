"""Table 1 of "Identity Mappings in Deep Residual Networks": what stands on the shortcut of ResNet-110, CIFAR-10.

    residual reproduce identity-shortcuts --data cifar10=DIR

Medians of five runs; ReLU stays after the addition.  "fail" in the paper is an error above 20 %.
"""

from typing import Any

from residual.recipes.identity import identity
from residual.reproduce import ledger
from residual.reproduce.experiment import Claim, Experiment, Printed, Row, Setting
from residual.reproduce.measures import lowest_test_error, test_error

FAIL = Printed(value=20, kind="above", n=5)
SHORTCUTS: dict[str, tuple[Printed, list[dict[str, Any]]]] = {  # what is printed, of the networks that differ by
    "identity": (Printed(value=6.61, kind="median", n=5), [{}]),
    "nothing (plain)": (FAIL, [{"shortcut": "none"}]),
    "constant 0.5, F as it is": (FAIL, [{"shortcut": "constant", "shortcut_scale": 0.5}]),
    "constant 0.5, F times 0.5": (
        Printed(value=12.35, kind="median", n=5),
        [{"shortcut": "constant", "shortcut_scale": 0.5, "residual_scale": 0.5}],
    ),
    "exclusive gate, bias 0 to -5, the best": (
        FAIL,
        [{"shortcut": "exclusive", "gate_bias": -float(bias)} for bias in range(6)],
    ),
    "exclusive gate, bias -6": (
        Printed(value=8.70, kind="median", n=5),
        [{"shortcut": "exclusive", "gate_bias": -6.0}],
    ),
    "exclusive gate, bias -7": (
        Printed(value=9.81, kind="median", n=5),
        [{"shortcut": "exclusive", "gate_bias": -7.0}],
    ),
    "shortcut-only gate, bias 0": (Printed(value=12.86, kind="median", n=5), [{"shortcut": "shortcut-only"}]),
    "shortcut-only gate, bias -6": (
        Printed(value=6.91, kind="median", n=5),
        [{"shortcut": "shortcut-only", "gate_bias": -6.0}],
    ),
    "1x1 convolution": (Printed(value=12.22, kind="median", n=5), [{"shortcut": "conv"}]),
    "dropout 0.5": (FAIL, [{"shortcut": "dropout"}]),
}

experiment = Experiment(
    name="identity-shortcuts",
    title="Test error on CIFAR-10 of ResNet-110 with different shortcuts",
    source="table 1 of arXiv 1603.05027",
    claim="Whatever stands on the shortcut, a scale, a gate, a convolution, dropout, is worse than the bare identity.",
    rows=tuple(
        Row(
            name=name,
            unit="% test error",
            paper=printed,
            settings=tuple(
                Setting(model="resnet110", recipe=identity(), data="cifar10", changes=change) for change in changes
            ),
            measure=test_error if len(changes) == 1 else lowest_test_error,
            seeds=3,
            resolution=1.0,
        )
        for name, (printed, changes) in SHORTCUTS.items()
    ),
    claims=tuple(
        Claim(text=f"The identity is better than: {other}", rising=("identity", other))
        for other in SHORTCUTS
        if other != "identity"
    ),
    data=("cifar10",),
    protocol=ledger.identity,
)
