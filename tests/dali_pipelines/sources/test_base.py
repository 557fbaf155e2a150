from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dali_pipelines import array_source, image_folder
from dali_pipelines.sources import Relabeled, Subset
from dali_pipelines.sources.several import each_once, several_sources
from tests.dali_pipelines.float_images import FloatImages, scenes


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


def test_a_relabelled_source_has_the_class_numbers_of_another() -> None:
    images = np.arange(3 * 8 * 8 * 5, dtype=np.uint8).reshape(3, 8, 8, 5)
    source = array_source(images, [0, 1, 1], ["b", "d"])
    other = Relabeled(source, ("d", "c", "b", "a"))
    assert other.labels.tolist() == [2, 0, 0]
    assert other.classes == ("d", "c", "b", "a")
    assert (other.kind, other.channels, list(other.names)) == (source.kind, 5, list(source.names))
    assert other.place(2) == source.place(2)
    np.testing.assert_array_equal(other.read(1), images[1])
    assert other.fingerprint != source.fingerprint
    assert Relabeled(source, source.classes).fingerprint == source.fingerprint


def test_classes_that_the_other_does_not_have_are_named() -> None:
    source = array_source(np.zeros((8, 8, 8, 3), np.uint8), range(8), ["a", "b\n", *"cdefgh"])
    with pytest.raises(ValueError, match=r"unknown classes: 'b\\n', c, d, e, f and 2 others"):
        Relabeled(source, ("a",))


def test_sources_that_wrap_another_have_its_type_of_pixels() -> None:
    images = scenes(3, channels=5)
    source = FloatImages(images)
    twice = several_sources([source, source], [1, 2])
    for wrapped in (Subset(source, np.arange(3)), Relabeled(source, ("none", "all")), twice, each_once(twice)):
        assert (wrapped.pixel_dtype, wrapped.channels) == (np.float32, 5)
        np.testing.assert_array_equal(wrapped.read(1), images[1])
    assert Subset(array_source(np.zeros((2, 8, 8, 3), np.uint8)), np.arange(1)).pixel_dtype == np.uint8
