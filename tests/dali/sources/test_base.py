from __future__ import annotations

from pathlib import Path

import numpy as np

from dali_pipelines import image_folder
from dali_pipelines.sources import Subset


def test_a_subset_is_some_of_the_images_in_its_own_order(small_data: Path) -> None:
    whole = image_folder(small_data / "train")
    indices = np.array([30, 2, 14])
    part = Subset(whole, indices)
    assert len(part) == 3
    assert part.classes == whole.classes
    for own, index in enumerate(indices):
        assert part.names[own] == whole.names[index]
        assert part.labels[own] == whole.labels[index]
        assert part.place(own) == whole.place(index)
        np.testing.assert_array_equal(part.read(own), whole.read(index))
    assert part.fingerprint != Subset(whole, np.array([30, 2, 15])).fingerprint
