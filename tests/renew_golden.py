"""Writes tests/golden/quickstart_losses.json anew: python -m tests.renew_golden."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from bt_plugin.demo_data import write_demo_data
from tests.test_golden import CONFIGS, GOLDEN, losses


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        write_demo_data(data)
        recorded = {world_size: losses(world_size, data, Path(folder) / world_size) for world_size in CONFIGS}
    GOLDEN.write_text(json.dumps(recorded, indent=1) + "\n")


if __name__ == "__main__":
    main()
