from __future__ import annotations

import numpy as np
import pytest

from mlip.schedules import rate


def test_it_warms_up_and_then_falls_to_zero() -> None:
    values = [rate(s, 100, 10) for s in range(100)]
    assert (
        values[:10] == pytest.approx(np.arange(1, 11) / 10) and values[10] == 1.0 and values[55] == pytest.approx(0.5)
    )
    assert np.all(np.diff(values[10:]) < 0) and 0 < values[-1] < 0.001


def test_constant_stays_and_no_warm_up_starts_at_the_full_rate() -> None:
    assert [rate(s, 8, 2, "constant") for s in range(8)] == [0.5] + [1.0] * 7
    assert [rate(0, 8, 0, then) for then in ("cosine", "constant")] == [1.0, 1.0]


def test_linear_falls_along_a_line() -> None:
    rates = [rate(step, 10, 2, "linear") for step in range(10)]
    assert rates[:3] == [0.5, 1.0, 1.0] and rates[6] == pytest.approx(0.5) and rates[9] == pytest.approx(1 / 8)
