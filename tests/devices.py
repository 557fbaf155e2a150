"""The devices that a test runs on: the CPU everywhere, and the GPU where there is one."""

from __future__ import annotations

import pytest

DEVICES = ["cpu", pytest.param("gpu", marks=pytest.mark.gpu)]
on_each_device = pytest.mark.parametrize("device", DEVICES)
