"""Weights of the Hugging Face Hub, from a server with its interface, from its cache, and without either."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file

from bt_plugin.errors import RecipeError
from bt_plugin.formats import convert
from bt_plugin.models.from_recipe import build_model
from bt_plugin.weights.warm_start import warm_start
from tests.bt_plugin.weights.test_warm_start import recipe_of
from tests.conftest import REPOSITORY
from tests.hub import Hub, commit_of, environment, served
from tests.test_launch import CPU_2PROC, launch

# An address at which nothing answers.
UNREACHABLE = "http://127.0.0.1:9"
VIT = "timm/test_vit"
# timm's own name for the weights of this network.
TIMM_REPOSITORY = "timm/test_vit.r160_in1k"
# Start one network after the other, and print the hash of its weights or the error.
STARTS = """
import json, sys
from tests.bt_plugin.weights.test_warm_start import recipe_of
from bt_plugin.errors import RecipeError
from bt_plugin.models.from_recipe import build_model
from bt_plugin.weights.warm_start import warm_start
for choice in json.loads(sys.argv[1]):
    recipe = recipe_of(**choice)
    try:
        found = warm_start(build_model(recipe), recipe.model)
        print(json.dumps([found.sha256, found.used]))
    except RecipeError as error:
        print(json.dumps(["", str(error)]))
"""


class Malicious:
    def __reduce__(self) -> Any:
        return print, ("code of the pickle",)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, small_export: Path) -> Iterator[Hub]:
    """Repositories in the three layouts, and others that have no weights."""
    import timm

    root = tmp_path_factory.mktemp("hub")
    for name in ("timm", "pickle", "malicious", "empty"):
        (root / name).mkdir()
    save_file(timm.create_model("test_vit").state_dict(), root / "timm" / "model.safetensors")
    state = load_file(small_export / "export" / "backbone.safetensors")
    torch.save(state, root / "pickle" / "pytorch_model.bin")
    torch.save({"state_dict": state, "other": Malicious()}, root / "malicious" / "pytorch_model.bin")
    (root / "empty" / "config.json").write_text("{}")
    convert(small_export, "hf", root / "exported")
    with served() as hub:
        hub.add("us/run", small_export / "export")
        hub.add("us/exported", root / "exported")
        hub.add(TIMM_REPOSITORY, root / "timm")
        for name in ("pickle", "malicious", "empty"):
            hub.add(f"us/{name}", root / name)
        hub.add("us/gated", small_export / "export")
        hub.gated.add("us/gated")
        hub.hanging.add("us/hanging")
        yield hub


def starts(choices: list[dict[str, Any]], env: dict[str, str]) -> list[list[str]]:
    """Return the hash, empty after an error, and the text of each start. All are in one process."""
    command = [sys.executable, "-c", STARTS, json.dumps(choices)]
    result = subprocess.run(command, env=env, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert "code of the pickle" not in result.stdout
    return [json.loads(line) for line in result.stdout.splitlines()]


GOOD: list[dict[str, Any]] = [
    {"init": "hf-hub:us/run", "projector": [8]},
    {"init": "hf-hub:us/run", "projector": [9]},
    {"init": f"hf-hub:us/pickle@{commit_of('us/pickle')}"},
    {"init": "hf-hub:us/exported"},
    {"init": f"hf-hub:{TIMM_REPOSITORY}", "backbone": VIT},
    {"init": "timm", "backbone": VIT},
]
BAD = {
    "us/nowhere": "the Hub has no repository us/nowhere .*hf auth login",
    "us/gated": "the Hub has no repository us/gated that you may read.*terms.*hf auth login",
    "us/run@v9": "us/run has no revision v9",
    "us/empty": "it has no backbone.safetensors with model.json, no model.safetensors and no pytorch_model.bin",
    "us/hanging": "cannot be downloaded .*Timeout.*hf download us/hanging",
    "a/b/c": "it must be hf-hub:OWNER/NAME",
    "us/malicious": "pytorch_model.bin is refused: loading it would call builtins.print",
}


class Online(NamedTuple):
    """What the starts with a network gave, and the cache that they filled."""

    good: list[list[str]]
    bad: list[list[str]]
    cache: Path


@pytest.fixture(scope="module")
def online(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Online:
    cache = tmp_path_factory.mktemp("cache")
    results = starts([*GOOD, *({"init": f"hf-hub:{name}"} for name in BAD)], environment(hub.url, cache))
    return Online(results[: len(GOOD)], results[len(GOOD) :], cache)


def test_each_file_is_downloaded_once(hub: Hub, online: Online, small_export: Path) -> None:
    hashes = [sha256 for sha256, _ in online.good]
    recipe = recipe_of(init=str(small_export), projector=[8])
    assert hashes[0] == warm_start(build_model(recipe), recipe.model).sha256, "backbone and projector of the export"
    assert hashes[1] == hashes[2] == hashes[3] != "", "the backbone alone, in three layouts"
    assert hashes[4] == hashes[5] != "", "timm's own weights by two names"
    assert ["and the projector" in text for _, text in online.good] == [True, *5 * [False]]
    for choice, (_, text) in zip(GOOD[:5], online.good, strict=False):
        assert f"commit {commit_of(choice['init'].removeprefix('hf-hub:').partition('@')[0])}" in text
    for file in ("us/run/backbone", "us/run/projector", "us/exported/model", f"{TIMM_REPOSITORY}/model"):
        assert hub.downloads(f"{file}.safetensors") == 1


@pytest.mark.parametrize(("offline", "reason"), [("1", "OfflineModeIsEnabled"), ("", "ConnectError")])
def test_without_a_network_the_cache_is_used(
    hub: Hub, online: Online, tmp_path: Path, offline: str, reason: str
) -> None:
    """What it does not have is named, with the remedy. With HF_HUB_OFFLINE the server is not even asked."""
    env = environment(hub.url if offline else UNREACHABLE, online.cache, HF_HUB_OFFLINE=offline)
    asked = len(hub.asked)
    *results, (sha256, text) = starts([*GOOD, {"init": "hf-hub:us/other@v2"}], env)
    assert results == online.good
    assert len(hub.asked) == asked
    assert not sha256
    for named in (
        "model.init: hf-hub:us/other@v2: the cache",
        reason,
        "HF_HUB_OFFLINE",
        "hf download us/other --revision v2.",
    ):
        assert named in text


def test_weights_of_timm_that_cannot_be_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The errors of timm's HTTP library have no base that is known here."""

    def broken(*_: object, **__: object) -> None:
        raise Exception("timed out")

    recipe = recipe_of(init="timm", backbone=VIT)
    model = build_model(recipe)
    monkeypatch.setattr("timm.create_model", broken)
    with pytest.raises(RecipeError, match=r"the weights of timm/test_vit cannot be downloaded \(timed out\).*give its"):
        warm_start(model, recipe.model)


def test_what_cannot_be_downloaded_is_named(online: Online) -> None:
    for (sha256, text), (name, expected) in zip(online.bad, BAD.items(), strict=True):
        assert not sha256, name
        assert text.startswith("model.init: ")
        assert re.search(expected, text), (name, text)


@pytest.mark.distributed
def test_rank_0_downloads_before_the_others(hub: Hub, small_recipe: Path, tmp_path: Path) -> None:
    begun = len(hub.asked)
    options = ["model.init=hf-hub:us/run", "model.backbone=torchvision/resnet18", "eval.knn=false", "run.max_steps=1"]
    # Not forked: huggingface_hub reads its environment when it is imported.
    result = launch(CPU_2PROC, str(small_recipe), *options, **environment(hub.url, tmp_path / "cache"))
    assert result.returncode == 0, result.stderr
    assert f"commit {commit_of('us/run')}" in result.stdout + result.stderr
    lists, downloads = (
        [number for number, (method, path) in enumerate(hub.asked[begun:]) if method == "GET" and path.endswith(end)]
        for end in ("/us/run", "/backbone.safetensors")
    )
    assert len(lists) == 2, "each rank asks for the files"
    assert len(downloads) == 1
    assert lists[0] < downloads[0] < lists[1]
