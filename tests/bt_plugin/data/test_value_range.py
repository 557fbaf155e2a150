"""Value range and channels of a recipe: found once, kept in the run, and used by resumes, evaluations and exports."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
import yaml

import bt_plugin
from bt_plugin.cli import main
from bt_plugin.config.evaluation_recipe import EvaluationRecipe
from bt_plugin.config.recipe import Recipe
from bt_plugin.config.recipe_file import load_as, load_recipe
from bt_plugin.data.from_recipe import open_sources
from bt_plugin.data.value_range import keep_range
from bt_plugin.errors import RecipeError
from bt_plugin.evaluation import run
from dali_pipelines.depth.source import FullDepthSource


def write_images(folder: Path, *, most: int, count: int = 12, channels: int = 1, dtype: str = "uint16") -> str:
    """Write two classes of noise, dark and bright, as TIFF files with values up to `most`."""
    for label, scale in (("dark", 0.5), ("bright", 1.0)):
        (folder / label).mkdir(parents=True)
        for number in range(count):
            rng = np.random.default_rng((number, most, channels))
            pixels = (rng.random((40, 40, channels)) * most * scale).astype(dtype)
            pixels[0, 0] = scale * most
            planar = {"planarconfig": "contig", "photometric": "minisblack"} if channels > 1 else {}
            tifffile.imwrite(folder / label / f"{number}.tif", pixels if channels > 1 else pixels[..., 0], **planar)
    return str(folder)


@pytest.fixture
def deep(tmp_path: Path) -> dict[str, str]:
    return {
        "train": write_images(tmp_path / "train", most=4000),
        "val": write_images(tmp_path / "val", most=60000, count=4),
    }


def recipe(data: dict[str, object], **sections: object) -> Recipe:
    return Recipe.model_validate({"data": data, "run": {"output_dir": "unused"}, **sections})


def test_validation_images_have_the_range_of_the_training_images(deep: dict[str, str]) -> None:
    assert Recipe.model_validate({"data": deep, "run": {"output_dir": "unused"}}).data.value_range_used is None
    given = EvaluationRecipe.model_validate({"data": deep})
    for known, val in (open_sources(recipe({**deep})), run._sources(given)):
        assert isinstance(val, FullDepthSource)
        assert isinstance(known, FullDepthSource)
        assert val.value_range == ((0, 4095),)
        assert val.read(0).max() == 255, "60000 is more than 4095"
    kept = keep_range(recipe({**deep}), known)
    assert kept.data.value_range_used == ((0, 4095),)
    assert Recipe.model_validate(yaml.safe_load(kept.to_yaml())).data == kept.data
    _, val = open_sources(kept.model_copy(update={"data": kept.data.model_copy(update={"train": deep["val"]})}))
    assert isinstance(val, FullDepthSource)
    assert val.value_range == ((0, 4095),), "a range that a run has kept is used"


def test_a_rule_that_is_given_later_wins_over_the_range_of_a_run(deep: dict[str, str], tmp_path: Path) -> None:
    known, _ = open_sources(recipe({**deep}))
    kept = keep_range(recipe({**deep}), known)
    file = tmp_path / "kept.yaml"
    file.write_text(kept.to_yaml())
    assert load_recipe(file).data.value_range_used == ((0, 4095),)
    assert load_recipe(file, ["data.value_range=[0, 5000]"]).data.value_range_used is None
    protocol = tmp_path / "protocol.yaml"
    protocol.write_text(json.dumps({"data": {"value_range": [0, 5000]}}))
    beneath = {"data": kept.data.model_dump(exclude={"weights"})}
    assert load_as(EvaluationRecipe, None, beneath=beneath).data.value_range_used == ((0, 4095),)
    assert load_as(EvaluationRecipe, protocol, beneath=beneath).data.value_range_used is None
    assert open_sources(kept, train=known)[0] is known, "as in a resumed run of Python"
    with pytest.raises(RecipeError, match=r"data\.train: the source has its value range already"):
        open_sources(recipe({**deep, "value_range": [0, 9]}), train=known)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"value_range": "percentile(1, 99)"}, "data.value_range: 'percentile(1, 99)' is not allowed; it must be auto"),
        ({"value_range": [5, 5]}, "data.value_range: [5, 5] is not allowed; the first value must be less"),
        ({"value_range": {"lo": 1}}, "data.value_range: it must be auto"),
        ({"channels": [-1]}, "data.channels.0: -1 is not allowed"),
    ],
)
def test_a_wrong_rule_is_told_before_an_image_is_read(tmp_path: Path, data: dict[str, object], message: str) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(json.dumps({"data": {"train": "nowhere", **data}, "run": {"output_dir": "unused"}}))
    with pytest.raises(RecipeError, match=re.escape(message)):
        load_recipe(file)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[-1000, 1000]", (-1000, 1000)),
        ("[[0, 1], [0.5, 2e3]]", ((0, 1), (0.5, 2000))),
        ("percentiles(1, 99)", "percentiles(1, 99)"),
        ("window", "window"),
    ],
)
def test_rules_of_a_command_line(small_recipe: Path, text: str, value: object) -> None:
    checked = load_recipe(small_recipe, [f"data.value_range={text}"])
    assert checked.data.value_range == value
    assert Recipe.model_validate(yaml.safe_load(checked.to_yaml())).data == checked.data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"value_range": "window"}, "data.value_range: window is not allowed for "),
        ({"value_range": [[0, 1], [0, 2]]}, "data.value_range: 2 pairs are not allowed for images of 1 channel"),
        ({"channels": [0, 1]}, "channel 1 does not exist, because the image has 1 channel(s)"),
    ],
)
def test_what_the_images_do_not_have_is_told(deep: dict[str, str], data: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(message)):
        open_sources(recipe({**deep, **data}))


def test_other_pixels_than_those_of_training_are_refused(deep: dict[str, str], tmp_path: Path) -> None:
    other = write_images(tmp_path / "other", most=1, dtype="float32")
    data = {**deep, "val": other}
    message = r"data\.val: its images are float32, and those of data\.train are uint16"
    for opened in (
        lambda: open_sources(recipe({**data})),
        lambda: run._sources(EvaluationRecipe.model_validate({"data": data})),
    ):
        with pytest.raises(RecipeError, match=message):
            opened()


@pytest.mark.slow
def test_a_run_keeps_its_range_and_channels(small_recipe: Path, tmp_path: Path) -> None:
    """It is resumed, evaluated and exported with them. All 5 channels are used, in another order."""
    train, val = (
        write_images(tmp_path / split, most=most, channels=5, count=12) for split, most in (("t", 900), ("v", 5000))
    )
    changes = {
        **{"data.train": train, "data.val": val, "data.channels": [3, 2, 1, 4, 0], "data.value_range": "auto"},
        **{"model.in_chans": 5, "views.both.mean": [0.4] * 5, "views.both.std": [0.3] * 5, "eval.knn_k": 3},
        "views.preset": "barlow_twins_overhead",
    }
    run_dir = tmp_path / "run"
    bt_plugin.pretrain(small_recipe, {**changes, "run.max_steps": 3})
    assert load_recipe(run_dir / "recipe.yaml").data.value_range_used == ((0, 1023),) * 5
    with pytest.raises(RecipeError, match=r"data\.value_range was 'auto' and is now 'percentiles\(1, 99\)'"):
        bt_plugin.pretrain(small_recipe, {**changes, "data.value_range": "percentiles(1, 99)"})
    # What was found stays, even if an image is brighter now.
    tifffile.imwrite(f"{train}/dark/0.tif", np.full((40, 40, 5), 5000, np.uint16), photometric="minisblack")
    summary = bt_plugin.pretrain(small_recipe, {**changes, "run.max_steps": 5})
    assert summary.step == 5
    assert load_recipe(run_dir / "recipe.yaml").data.value_range_used == ((0, 1023),) * 5
    description = json.loads((run_dir / "export" / "model.json").read_text())
    assert description["data"] == {"channels": [3, 2, 1, 4, 0], "value_range_used": [[0, 1023]] * 5}
    assert description["eval_view"]["channels"] == 5

    result = bt_plugin.evaluate(run_dir, overrides={"knn.k": 3})
    assert result["data"] == {"train": train, "val": val}
    embedded = bt_plugin.embed(run_dir, val)
    (run_dir / "export").rename(tmp_path / "elsewhere")
    alone = bt_plugin.embed(tmp_path / "elsewhere", val, overrides={"run.device": "cpu"})
    np.testing.assert_array_equal(alone.features, embedded.features)

    onnx = tmp_path / "five.onnx"
    assert main(["export", str(tmp_path / "elsewhere"), "--to", "onnx", "-o", str(onnx)]) == 0
    import onnxruntime

    (features,) = onnxruntime.InferenceSession(onnx).run(None, {"images": torch.rand(2, 5, 32, 32).numpy()})
    assert features.shape == (2, 1024)


def test_doctor_check_scan_and_preview_say_what_they_found(
    deep: dict[str, str], small_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = "TIFF images of 16 bits (uint16) and 1 channel(s); "
    overrides = [f"data.{key}={path}" for key, path in deep.items()]
    assert main(["check", str(small_recipe), *overrides]) == 0
    printed = capsys.readouterr().out
    assert said in printed
    assert "0 to 4095 become 0 to 255" in printed
    assert yaml.safe_load(printed)["data"]["value_range_used"] == [[0, 4095]]
    assert main(["doctor", str(small_recipe), *overrides]) in (0, 1)
    assert said in capsys.readouterr().out
    tifffile.imwrite(f"{deep['train']}/dark/0.tif", np.zeros((9, 9), np.float32))
    assert main(["scan", deep["train"], "-o", str(tmp_path / "scan"), "--value-range", "[0, 4000]"]) == 0
    printed = capsys.readouterr().out
    assert said in printed
    assert "0 to 4000 become 0 to 255" in printed
    assert "1 bad ones" in printed
    assert main(["preview", str(small_recipe), *overrides, "-o", str(tmp_path / "views.png"), "--images", "2"]) == 0
    assert (tmp_path / "views.png").stat().st_size > 1000
