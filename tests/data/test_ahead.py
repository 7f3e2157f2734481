import threading

import pytest

from residual.data.ahead import ahead


def test_ahead_keeps_order_hands_on_errors_and_stops():
    def source():
        for number in range(50):
            if number == 40:
                raise ValueError("number 40")
            yield number

    seen: list[int] = []
    with pytest.raises(ValueError, match="number 40"):
        seen.extend(ahead(source(), depth=2))
    assert seen == list(range(40))
    before = threading.active_count()
    some = ahead(iter(range(1000)), depth=2)
    assert next(some) == 0
    some.close()
    assert threading.active_count() == before
