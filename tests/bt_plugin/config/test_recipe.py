"""Every mistake in a recipe is answered with its key, its value, the rule and the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from bt_plugin.config.recipe import Recipe
from bt_plugin.config.recipe_file import load_recipe
from bt_plugin.errors import RecipeError
from dali_pipelines.views.params import PRESETS

MINIMAL = "data: {train: images}\nrun: {output_dir: runs/x}\n"


def recipe(tmp_path: Path, text: str = MINIMAL, *overrides: str) -> Recipe:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return load_recipe(path, list(overrides))


def test_defaults_are_the_papers(tmp_path: Path) -> None:
    resolved = recipe(tmp_path)
    assert resolved.preset == PRESETS["barlow_twins"]
    assert resolved.model.projector == [8192, 8192, 8192]
    assert (resolved.optim.epochs, resolved.optim.global_batch_size) == (1000, 2048)


def test_overrides_change_any_key(tmp_path: Path) -> None:
    changed = recipe(
        tmp_path,
        MINIMAL,
        "optim.lr_weights=1e-1",
        "views.b.solarize_p=0.5",
        "views.both.size_px=64",
        "views.a.crop_scale=[0.3, 1]",
        "run.mixed_precision=no",
        "data.val=null",
    )
    assert changed.optim.lr_weights == 0.1
    a, b = changed.preset.views
    assert (a.size_px, b.size_px, a.crop_scale, b.crop_scale) == (64, 64, (0.3, 1.0), (0.08, 1.0))
    assert (a.solarize_p, b.solarize_p) == (0.0, 0.5)
    assert changed.run.mixed_precision == "no"


def test_resolved_recipe_loads_as_the_same(tmp_path: Path) -> None:
    first = recipe(tmp_path, MINIMAL, "views.both.size_px=64", "model.in_chans=1", "optim.weight_decay=1e-7")
    assert first.resolved_dict()["views"]["b"]["solarize_p"] == 0.2, "every key is spelled out"
    again = recipe(tmp_path, first.to_yaml())
    assert again.resolved_dict() == first.resolved_dict()
    assert again.preset == first.preset
    assert again.preset.views[0].channels == 1


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("optim.epohcs=3", ["optim.epohcs", "3", "did you mean epochs?"]),
        ("views.b.blur=3", ["views.b.blur", "did you mean blur_p?"]),
        ("zzz.key=1", ["zzz", "the keys here are data, views"]),
        ("optim.epochs=many", ["optim.epochs", "'many'", "valid integer"]),
        ("optim.epochs=1.5", ["optim.epochs", "1.5", "valid integer"]),
        ("optim.epochs=0", ["optim.epochs", "0", "greater than or equal to 1"]),
        ("optim.lr_weights=.nan", ["optim.lr_weights", "nan"]),
        ("optim.lr_weights=true", ["optim.lr_weights", "True", "valid number"]),
        ("optim.epochs=10", ["warmup_epochs (10) must be less than epochs (10)"]),
        ("views.preset=byol", ["views.preset: 'byol' is not allowed", "barlow_twins_32"]),
        ("views.preset=dino", ["views.preset: 'dino' is not allowed", "a preset of two views"]),
        ("views.a.hue_space=lab", ["views.a.hue_space", "'lab'", "yiq"]),
        ("views.b.gray_p=2", ["views.b.gray_p: 2.0", "0 to 1"]),
        ("views.both.crop_scale=[1, 2, 3]", ["views.both.crop_scale", "2 items"]),
        ("model.projector=[]", ["model.projector", "at least 1"]),
        ("model.in_chans=0", ["model.in_chans", "0"]),
        ("model.in_chans=4", ["views.a.mean", "4 values, one for each channel"]),
        ("data.max_pixels=200000000", ["data.max_pixels", "less than or equal to 178956970"]),
        ("run.mixed_precision=fp8", ["run.mixed_precision", "'fp8'", "bf16"]),
        ("loss.form=dense", ["loss.form", "'dense'", "gram"]),
        ("data.train=5", ["1 error(s)", "  data.train: 5 is not allowed; input should be a valid string"]),
        ("data.train=[]", ["1 error(s)", "  data.train: [] is not allowed; a list must have at least one path"]),
        ("data.val=[a, '']", ["1 error(s)", "  data.val.1: '' is not allowed"]),
        ("data.weights=[1]", ["  data.weights: [1.0] is allowed only with a list", "set data.weights to null"]),
    ],
)
def test_a_wrong_key_is_named_with_its_remedy(tmp_path: Path, override: str, parts: list[str]) -> None:
    with pytest.raises(RecipeError) as error:
        recipe(tmp_path, MINIMAL, override)
    for part in parts:
        assert part in str(error.value)


def test_several_sources_have_a_weight_each(tmp_path: Path) -> None:
    several = recipe(tmp_path, MINIMAL, "data.train=[a/*.tar, ~/b]", "data.weights=[1, 2.5]", "data.val=[c, d]")
    assert several.data.train == ("a/*.tar", "~/b")
    assert several.data.weights == (1.0, 2.5)
    assert several.data.val == ("c", "d")
    assert load_recipe(several) == several
    assert recipe(tmp_path, several.to_yaml()).data == several.data
    with pytest.raises(RecipeError, match=r"more than the 3 images an epoch of data\.train \[a/\*\.tar, ~/b\]; use at"):
        several.steps_per_epoch(3)
    for weights, named in (
        ("[1]", r"has 1 weights.* 2 sources"),
        ("[0, 1]", r"weights\.0: 0 .* greater than 0"),
        ("[1, 1e9]", "less than or equal to 1000"),
        ("2", "valid array"),
        ("[]", "has 0 weights"),
    ):
        with pytest.raises(RecipeError, match=named):
            recipe(tmp_path, MINIMAL, "data.train=[a, b]", f"data.weights={weights}")


def test_braces_in_a_list_need_quotes(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"not valid YAML.*put double quotes around a path with braces"):
        recipe(tmp_path, MINIMAL, "data.train=[shards-{0..3}.tar, b]")
    assert recipe(tmp_path, MINIMAL, 'data.train=["s-{0..3}.tar", b]').data.train == ("s-{0..3}.tar", "b")


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as error:
        recipe(tmp_path, "optim: {epochs: x, lr_weigths: 1}\nrun: {output_dir: r}\n")
    for part in ("3 error(s)", "data: is missing", "optim.epochs", "did you mean lr_weights?"):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("data: {train: [", "is not valid YAML"),
        ("- a list", "must be a mapping with the sections"),
        ("data: {train: a}\ndata: {train: b}\nrun: {output_dir: r}\n", "'data' is given twice"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(RecipeError, match=named):
        recipe(tmp_path, text)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(RecipeError, match=r"nowhere\.yaml"):
        load_recipe("nowhere.yaml")


@pytest.mark.parametrize("override", ["epochs=3", "optim.epochs", "optim.=3", "data.train.x=1", "model.projector=[8"])
def test_a_bad_override_is_named(tmp_path: Path, override: str) -> None:
    with pytest.raises(RecipeError) as error:
        recipe(tmp_path, MINIMAL, override)
    assert override in str(error.value)


def test_a_graph_that_changes_is_not_static(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"run\.static_graph: true is not allowed with optim\.accumulation_steps=2"):
        recipe(tmp_path, MINIMAL, "run.static_graph=true", "optim.accumulation_steps=2")


def test_kernels_for_a_gpu_are_refused_on_a_cpu(tmp_path: Path) -> None:
    fused = "data.augment=fused"
    assert recipe(tmp_path, MINIMAL, fused).data.augment == "fused"
    assert recipe(tmp_path, MINIMAL, fused, "data.backend=native").data.augment == "fused"
    with pytest.raises(RecipeError, match=r"data\.augment: fused is not allowed with run\.device=cpu.*set data"):
        recipe(tmp_path, MINIMAL, fused, "run.device=cpu")
    kept = "data.on_device=true"
    assert recipe(tmp_path, MINIMAL, kept).data.on_device is True
    with pytest.raises(RecipeError, match=r"data\.on_device: true is not allowed with run\.device=cpu.*set data"):
        recipe(tmp_path, MINIMAL, kept, "run.device=cpu")


def test_the_global_batch_is_divided_or_refused(tmp_path: Path) -> None:
    batch = recipe(tmp_path, MINIMAL, "optim.global_batch_size=100")
    assert batch.batch_size_per_rank(4) == 25
    with pytest.raises(RecipeError, match=r"100 does not divide over 3 ranks; use 99, 102"):
        batch.batch_size_per_rank(3)
    with pytest.raises(RecipeError, match=r"100 over 100 ranks is 1 image each.*use 200"):
        batch.batch_size_per_rank(100)
    accumulated = recipe(tmp_path, MINIMAL, "optim.global_batch_size=100", "optim.accumulation_steps=25")
    assert accumulated.batch_size_per_rank(2) == 50
    with pytest.raises(RecipeError, match=r"100 does not divide over 3 ranks x 25 accumulation_steps; use 75, 150"):
        accumulated.batch_size_per_rank(3)
    with pytest.raises(RecipeError, match=r"100 over 4 ranks x 25 accumulation_steps is 1 image each.*use 200"):
        accumulated.batch_size_per_rank(4)
    assert batch.steps_per_epoch(250) == 2
    with pytest.raises(RecipeError, match=r"optim.global_batch_size: 100 is more than the 99 images"):
        batch.steps_per_epoch(99)
