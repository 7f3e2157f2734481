import json
import subprocess
import sys
from dataclasses import FrozenInstanceError, asdict, fields, is_dataclass

import pytest

from residual import events

KINDS = [kind for kind in vars(events).values() if isinstance(kind, type) and kind.__module__ == events.__name__]


def test_events_need_no_torch():
    code = "import sys, residual.events; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("kind", KINDS)
def test_what_has_happened_cannot_be_changed_and_becomes_json(kind: type):
    assert is_dataclass(kind)
    event = kind(**{field.name: "something" for field in fields(kind)})
    assert json.loads(json.dumps(asdict(event))) == {field.name: "something" for field in fields(kind)}
    with pytest.raises(FrozenInstanceError):
        setattr(event, fields(kind)[0].name, "else")
    assert kind.__doc__
    assert not kind.__doc__.startswith(kind.__name__ + "("), "the docstring that dataclasses make says nothing"
