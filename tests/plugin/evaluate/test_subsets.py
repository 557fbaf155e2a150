from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bt_plugin.errors import RecipeError
from bt_plugin.evaluate.subsets import class_balanced, listed
from dali_pipelines import image_folder


def test_each_class_gives_its_share(small_data: Path) -> None:
    source = image_folder(small_data / "train")
    half = class_balanced(source, 0.5, seed=0)
    assert np.bincount(half.labels).tolist() == [6, 6, 6]
    assert np.bincount(class_balanced(source, 0.01, seed=0).labels).tolist() == [1, 1, 1], "one at least"
    assert len(class_balanced(source, 1.0, seed=0)) == len(source)
    assert list(class_balanced(source, 0.5, seed=0).names) == list(half.names)
    assert list(class_balanced(source, 0.5, seed=1).names) != list(half.names)
    labels = dict(zip(source.names, source.labels))
    assert [labels[name] for name in half.names] == half.labels.tolist()


def test_a_list_names_the_images(small_data: Path, tmp_path: Path) -> None:
    source = image_folder(small_data / "train")
    file = tmp_path / "some.txt"
    file.write_text(f"{Path(source.names[20]).name}\n{source.names[3]}\n")
    part = listed(source, str(file))
    last = {index for index, name in enumerate(source.names) if Path(name).name == Path(source.names[20]).name}
    assert source.names[3] in part.names
    assert len(part) == 2
    assert set(part.names) <= {source.names[3], *(source.names[index] for index in last)}


@pytest.mark.parametrize(
    ("text", "message"),
    [("no.jpg\n", r"1 of its 1 names, such as no\.jpg"), ("", "any name"), (None, "cannot be read")],
)
def test_a_list_of_other_images_is_refused(small_data: Path, tmp_path: Path, text: str | None, message: str) -> None:
    file = tmp_path / "some.txt"
    if text is not None:
        file.write_text(text)
    with pytest.raises(RecipeError, match=rf"finetune\.subset: .*{message}"):
        listed(image_folder(small_data / "train"), str(file))
