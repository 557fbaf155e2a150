"""Recipes whose images are behind URLs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bt_plugin.config.evaluation_recipe import EvaluationRecipe
from bt_plugin.config.recipe_file import load_as, load_recipe
from bt_plugin.errors import RecipeError
from dali_pipelines import image_folder
from dali_pipelines.storage.options import Storage
from tests.tar_files import write_shard
from tests.web import nginx


@pytest.mark.parametrize("key", ["data.train", "data.val", "data.cache_dir"])
@pytest.mark.parametrize("url", ["https://me:hush@h/a.tar", "https://h/a.tar?X-Amz-Signature=hush"])
def test_a_secret_in_a_recipe_is_refused_and_not_repeated(key: str, url: str) -> None:
    with pytest.raises(RecipeError, match=f"{key}: .*Recipes, logs and checkpoints would keep it") as raised:
        load_recipe("quickstart", {key: url})
    assert "hush" not in str(raised.value)


def test_the_options_of_the_cache() -> None:
    recipe = load_recipe("quickstart", ["data.cache_dir=/c", "data.cache_gib=0.5"])
    assert recipe.data.storage == Storage("/c", 0.5)
    changes = {"data.train": "a", "data.val": "b", "data.cache_gib": 2}
    assert load_as(EvaluationRecipe, None, overrides=changes).data.storage == Storage(None, 2.0)
    with pytest.raises(RecipeError, match=r"data.cache_gib: -1 is not allowed"):
        load_recipe("quickstart", ["data.cache_gib=-1"])


@pytest.mark.slow
def test_a_run_on_remote_shards_is_that_on_the_same_files(
    small_data: Path, small_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bt_plugin.training.pretrain import pretrain

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    images = image_folder(small_data / "train")
    (tmp_path / "root").mkdir()
    members = {f"{index:03}.jpg": images.read(index).tobytes() for index in range(len(images))}
    write_shard(tmp_path / "root" / "a.tar", members)
    losses = []
    with nginx(tmp_path / "root", tmp_path / "nginx") as server:
        for number, place in enumerate((str(tmp_path / "root"), server.url)):
            run = {"run.output_dir": str(tmp_path / f"run-{number}"), "data.cache_dir": str(tmp_path / "cache")}
            pretrain(load_recipe(small_recipe, {**run, "data.train": f"{place}/a.tar", "data.val": None}))
            lines = (tmp_path / f"run-{number}" / "metrics.jsonl").read_text().splitlines()
            losses.append([json.loads(line)["loss"] for line in lines])
        fetched = server.sent_bytes()
    assert losses[0] == losses[1]
    assert len(losses[0]) == 12
    assert fetched < 1.1 * (tmp_path / "root" / "a.tar").stat().st_size, "three epochs, fetched once"
    assert any((tmp_path / "cache").rglob("*"))
