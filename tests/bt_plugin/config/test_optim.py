"""The keys of the optimizers: defaults by name, and keys that another optimizer or schedule takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from bt_plugin.config.optim import Optim
from bt_plugin.config.recipe_file import load_recipe
from bt_plugin.errors import RecipeError


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text("data: {train: images}\nrun: {output_dir: run}\n")
    return path


def optim_of(recipe: Path, *overrides: str) -> Optim:
    return load_recipe(recipe, list(overrides)).optim


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], {"name": "lars", "lr": None, "weight_decay": 1.6e-5}),
        (["optim.name=adamw"], {"lr": 1.5e-4, "weight_decay": 0.05, "betas": [0.9, 0.95]}),
        (["optim.name=adamw", "optim.lr=null"], {"lr": 1.5e-4}),
        (["optim.name=adamw", "optim.lr=0.0", "optim.weight_decay=0.0"], {"lr": 0.0, "weight_decay": 0.0}),
        (["optim.name=sgd"], {"lr": 0.05, "weight_decay": 1e-4, "momentum": 0.9}),
        (["optim.name=adamw", "optim.lr_weights=0.2"], {"lr": 1.5e-4}),
    ],
    ids=str,
)
def test_defaults_are_those_of_the_optimizer(recipe: Path, overrides: list[str], expected: dict[str, Any]) -> None:
    optim = optim_of(recipe, *overrides)
    assert {key: getattr(optim, key) for key in expected} == expected


@pytest.mark.parametrize(
    ("overrides", "key", "choice", "default"),
    [
        (["optim.lr=0.1"], "lr", "name=lars", "null"),
        (["optim.betas=[0.9, 0.99]"], "betas", "name=lars", r"\[0.9, 0.95\]"),
        (["optim.layer_decay=0.7"], "layer_decay", "name=lars", "1.0"),
        (["optim.patch_embed_lr_scale=0.7"], "patch_embed_lr_scale", "name=lars", "1.0"),
        (["optim.clip_grad_norm=1"], "clip_grad_norm", "name=lars", "null"),
        (["optim.name=adamw", "optim.lr_weights=0.3"], "lr_weights", "name=adamw", "0.2"),
        (["optim.name=adamw", "optim.momentum=0.8"], "momentum", "name=adamw", "0.9"),
        (["optim.name=sgd", "optim.lr_biases=0.1"], "lr_biases", "name=sgd", "0.0003"),
        (["optim.name=sgd", "optim.eta=0.1"], "eta", "name=sgd", "0.001"),
        (["optim.name=sgd", "optim.betas=[0, 0]"], "betas", "name=sgd", r"\[0.9, 0.95\]"),
        (["optim.decay_share=0.1"], "decay_share", "schedule=cosine", "0.2"),
    ],
    ids=str,
)
def test_a_key_of_another_choice_is_refused_by_name(
    recipe: Path, overrides: list[str], key: str, choice: str, default: str
) -> None:
    with pytest.raises(RecipeError, match=rf"optim: {key}=.* not allowed with {choice}.*remove {key}.* {default}$"):
        optim_of(recipe, *overrides)


def test_a_resolved_recipe_has_the_keys_of_its_optimizer_and_loads_again(recipe: Path, tmp_path: Path) -> None:
    loaded = load_recipe(recipe, ["optim.name=adamw", "optim.schedule=wsd", "optim.clip_grad_norm=3"])
    keys = set(yaml.safe_load(loaded.to_yaml())["optim"])
    assert keys == {
        *("name", "epochs", "warmup_epochs", "schedule", "decay_share", "final_lr_scale", "global_batch_size"),
        *("accumulation_steps", "lr", "weight_decay", "betas", "layer_decay", "patch_embed_lr_scale", "clip_grad_norm"),
    }
    (tmp_path / "resolved.yaml").write_text(loaded.to_yaml())
    assert load_recipe(tmp_path / "resolved.yaml").optim == loaded.optim


def test_the_warm_up_ends_before_the_decay(recipe: Path) -> None:
    options = ["optim.schedule=wsd", "optim.epochs=10", "optim.decay_share=0.4"]
    assert optim_of(recipe, *options, "optim.warmup_epochs=6").warmup_epochs == 6
    with pytest.raises(RecipeError, match=r"warmup_epochs \(6\.5\) must be at most 6, because the decay begins there"):
        optim_of(recipe, *options, "optim.warmup_epochs=6.5")
    for name in ("optim.name=adam", "optim.name=[1]", "optim.name=null"):
        with pytest.raises(RecipeError, match=r"optim\.name: .* is not allowed; input should be 'lars', 'adamw' or"):
            optim_of(recipe, name)
