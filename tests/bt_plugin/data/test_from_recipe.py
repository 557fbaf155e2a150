"""The images of recipes: validation sets whose classes differ from those of the training set."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from bt_plugin.config.data import Data
from bt_plugin.config.evaluation_recipe import EvaluationRecipe
from bt_plugin.config.recipe import Recipe
from bt_plugin.data.from_recipe import build_loader, open_pair, open_sources, with_classes_of
from bt_plugin.errors import RecipeError
from bt_plugin.evaluation import run
from bt_plugin.evaluation.subsets import at_most
from dali_pipelines import open_source
from tests.conftest import write_image
from tests.parquet_files import write_parquet

PIXELS = np.zeros((8, 8, 3), np.uint8)


def write_tree(root: Path, *classes: str) -> str:
    for name in classes:
        write_image(root / name / "1.png", PIXELS)
    return str(root)


def write_list(path: Path, *classes: str) -> str:
    path.write_text("".join(f"{name}/1.png,{name}\n" for name in classes))
    return str(path)


def recipe(train: str | tuple[str, ...], val: str | tuple[str, ...] | None, **data: Any) -> Recipe:
    return Recipe.model_validate({"data": {"train": train, "val": val, **data}, "run": {"output_dir": "unused"}})


def protocol(train: str | tuple[str, ...], val: str, **data: Any) -> EvaluationRecipe:
    return EvaluationRecipe.model_validate({"data": {"train": train, "val": val, **data}})


TWELVE = [str(number) for number in range(12)]


@pytest.mark.parametrize("classes", [TWELVE, TWELVE[::-1], ["3", "10"], ["11"]])
def test_validation_labels_are_the_numbers_of_the_training_classes(tmp_path: Path, classes: list[str]) -> None:
    """Whether they are folders, in the order of text, or a list, in the order of numbers."""
    train = {"folder": write_tree(tmp_path / "train", *TWELVE), "list": write_list(tmp_path / "train.csv", *TWELVE)}
    val = {"folder": write_tree(tmp_path / "val", *classes), "list": write_list(tmp_path / "val.csv", *classes)}
    for of_train in train.values():
        for of_val in val.values():
            for sources in (open_sources(recipe(of_train, of_val)), run._sources(protocol(of_train, of_val))):
                known, queries = sources
                assert queries is not None
                assert queries.classes == known.classes
                assert {known.classes[label] for label in queries.labels} == set(classes)
                for name, label in zip(queries.names, queries.labels):
                    assert known.classes[label] == name.split("/")[0]


def test_equal_classes_are_left_as_they_are(tmp_path: Path) -> None:
    train = open_source(write_tree(tmp_path / "train", "a", "b"))
    val = open_source(write_tree(tmp_path / "val", "a", "b"))
    assert with_classes_of(train, val, "val") is val


@pytest.mark.parametrize("classes", [["a", "c"], ["A", "B"], ["x"], ["a", "b", "esc\x1b[1m"]])
def test_unknown_classes_end_an_evaluation_and_not_a_pretraining(
    tmp_path: Path, classes: list[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = write_tree(tmp_path / "train", "a", "b")
    val = write_tree(tmp_path / "val", *classes)
    unknown = next(name for name in classes if name not in "ab")
    rule = rf"data\.val: .*val has unknown classes: .*{unknown[:3]}.*every class must be in data\.train"
    with pytest.raises(RecipeError, match=rule) as error:
        run._sources(protocol(train, val))
    assert "\x1b" not in str(error.value)
    source, none = open_sources(recipe(train, val))
    assert len(source) == 2
    assert none is None
    assert [message.endswith("The run trains without evaluation on data.val.") for message in caplog.messages] == [True]
    caplog.clear()
    monkeypatch.setenv("RANK", "1")
    assert open_sources(recipe(train, val))[1] is None
    assert not caplog.messages, "rank 0 alone tells"


def test_validation_images_that_cannot_be_opened_are_an_error(tmp_path: Path) -> None:
    train = write_tree(tmp_path / "train", "a", "b")
    with pytest.raises(RecipeError, match=r"data\.val: .*gone: does not exist"):
        open_sources(recipe(train, str(tmp_path / "gone")))
    (tmp_path / "val").mkdir()
    with pytest.raises(RecipeError, match=r"data\.val: .*no images"):
        open_sources(recipe(train, str(tmp_path / "val")))


def test_labels_are_needed_on_both_sides_only_for_an_evaluation(tmp_path: Path) -> None:
    train = write_tree(tmp_path / "train", "a", "b")
    flat = str(tmp_path / "train" / "a")
    assert not open_sources(recipe(train, flat))[1].has_labels  # type: ignore[union-attr]
    with pytest.raises(RecipeError, match=r"data\.val: the images of .* have no classes; use a folder"):
        run._sources(protocol(train, flat))


def test_kernels_for_a_gpu_are_refused_on_a_cpu(tmp_path: Path) -> None:
    source = open_source(write_tree(tmp_path / "train", "a", "b"))
    on_cpu: Any = SimpleNamespace(num_processes=1, process_index=0, device=torch.device("cpu"))

    def augment_of(augment: str) -> str:
        whole = recipe("unused", None, augment=augment)
        small = whole.model_copy(update={"optim": whole.optim.model_copy(update={"global_batch_size": 2})})
        return build_loader(small, source, on_cpu).backend.augment

    assert augment_of("auto") == augment_of("dali") == "dali"
    with pytest.raises(RecipeError, match=r"data\.augment: fused is not allowed on a CPU.*native, which computes"):
        augment_of("fused")


def test_a_list_of_paths_is_several_sources(tmp_path: Path) -> None:
    train = write_tree(tmp_path / "a", "x", "y"), write_tree(tmp_path / "b", "w")
    source, val = open_sources(recipe(train, train[::-1], weights=(0.5, 3)))
    assert list(source.names) == ["0/x/1.png", "0/y/1.png", "1/w/1.png"]
    assert source.parts == ((2, 0.5), (1, 3.0))
    assert val is not None
    assert [(val.names[0], val.classes[val.labels[0]]), val.epoch_length] == [("0/w/1.png", "w"), 3]
    known, _ = run._sources(protocol(train, train[0], weights=(0.5, 3)))
    assert (known.epoch_length, known.classes) == (3, ("w", "x", "y")), "an evaluation sees every image once"
    given, _ = run._sources(protocol(train, train[0]), source, None)
    assert given.epoch_length == len(given) == 3
    assert at_most(source, 3, 0).epoch_length == 3


def test_what_is_wrong_in_a_list_is_named(tmp_path: Path) -> None:
    folder = write_tree(tmp_path / "a", "x")
    np.save(tmp_path / "five.npy", np.zeros((4, 8, 8, 5), np.uint8))
    for train, weights, named in (
        ((folder, str(tmp_path / "gone")), None, r"data\.train: .*gone: does not exist"),
        ((folder, "<Mine>"), None, r"data\.train: <Mine> are images that a Python program gave"),
        ((folder, folder), (1, 0.1), r"data\.weights: 0\.1 is not allowed for source 1 .*1\.png.* give at least 1"),
        ((folder, str(tmp_path / "five.npy")), None, r"data\.train: sources: .* 3 channels, .* source 1 .* have 5"),
        ((str(tmp_path / "five.npy"),) * 2, None, r"the images of \[.*five\.npy, .*five\.npy\] have 5 channels"),
    ):
        with pytest.raises(RecipeError, match=named):
            open_sources(recipe(train, None, weights=weights))
    (tmp_path / "bare").mkdir()
    write_image(tmp_path / "bare" / "1.png", PIXELS)
    with pytest.raises(RecipeError, match=r"data\.train: the images of \[.*bare\] have no classes"):
        run._sources(protocol((folder, str(tmp_path / "bare")), folder))


def test_validation_on_the_training_images_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one, two = (str(write_tree(tmp_path / name, "a")) for name in ("one", "two"))
    open_pair(Data(train=one, val=two))
    assert not caplog.messages
    open_pair(Data(train=one, val=one))
    assert [message.split(". ")[0] for message in caplog.messages] == [f"data.val: {one} is data.train too"]


def test_windows_are_for_images_in_groups(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_tree(tmp_path / "train", "a", "b")
    with pytest.raises(RecipeError, match=r"data\.shuffle_window: 5 is not allowed, because the source reads each"):
        open_sources(recipe(folder, None, shuffle_window=5))
    content = (tmp_path / "train" / "a" / "1.png").read_bytes()
    path = write_parquet(tmp_path / "set.parquet", [content] * 8, [0, 1] * 4, classes=["a", "b"], rows=2)
    on_cpu: Any = SimpleNamespace(num_processes=1, process_index=0, device=torch.device("cpu"))
    for window in (None, 4):
        whole = recipe(str(path), folder, shuffle_window=window)
        small = whole.model_copy(update={"optim": whole.optim.model_copy(update={"global_batch_size": 4})})
        train, val = open_sources(small)
        assert val is not None
        assert val.classes == train.classes == ("a", "b")
        assert build_loader(small, train, on_cpu).state_dict().get("window") == window
        assert "data.shuffle_window" not in caplog.text, "all images stay in memory"
        train.kept_images = 4
        build_loader(small, train, on_cpu)
        assert ("data.shuffle_window: is not set" in caplog.text) is (window is None)
        caplog.clear()
