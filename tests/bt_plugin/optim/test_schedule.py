"""The schedule of warm-up, stable and decay, by hand-computed values. test_lars.py has the cosine."""

from __future__ import annotations

import pytest

from bt_plugin.config.optim import Optim
from bt_plugin.optim.schedule import scheduled, stable_steps

OPTIM = Optim(schedule="wsd", epochs=10, warmup_epochs=1, decay_share=0.4, final_lr_scale=0.1)


def test_rates_warm_up_stay_and_decay() -> None:
    """100 steps: 10 of warm-up, the last 40 of decay, after a quarter of which 1 - sqrt(1/4) is left."""
    assert stable_steps(OPTIM, steps_per_epoch=10) == 60
    expected = {0: 0.0, 5: 0.5, 10: 1.0, 59: 1.0, 60: 1.0, 70: 0.1 + 0.9 * 0.5, 99: 0.1 + 0.9 * (1 - 0.975**0.5)}
    found = {step: scheduled(OPTIM, step, steps_per_epoch=10) for step in expected}
    assert found == pytest.approx(expected)


def test_more_epochs_change_no_rate_before_the_decay() -> None:
    longer = OPTIM.model_copy(update={"epochs": 20})
    rates, longer_rates = (
        [scheduled(optim, step, steps_per_epoch=10) for step in range(100)] for optim in (OPTIM, longer)
    )
    assert rates[:61] == longer_rates[:61]
    assert rates[61] < longer_rates[61]


def test_a_cosine_has_no_stable_part() -> None:
    assert stable_steps(Optim(), steps_per_epoch=10) is None
