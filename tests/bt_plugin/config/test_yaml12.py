"""YAML from strangers: read within limits, refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bt_plugin.config.recipe_file import load_recipe
from bt_plugin.config.yaml12 import YamlError, parse_yaml
from bt_plugin.errors import RecipeError

BOMB = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 12)
)
HOSTILE = {
    "brackets": "[" * 3000 + "]" * 3000,
    "braces": "{a: " * 500 + "1" + "}" * 500,
    "dashes": "- " * 4000 + "a",
    "itself": "loss: &l\n  form: *l\n",
    "through another": "a: &a {b: &b {c: *a}}",
    "bomb": BOMB,
    "digits": "run: {seed: " + "9" * 5000 + "}",
    "unknown alias": "a: *b",
    "python object": "a: !!python/object/apply:os.system [ls]",
    "NUL": "a: \0",
    "a list as a key": "[a, b]: c",
    "twice": "a: 1\nb: 2\na: 3",
    "two documents": "a: 1\n---\nb: 2",
    "values": "a: [" + "1, " * 20_000 + "]",
    "not closed": "a: [1, 2",
    "tab": "a:\n\t- b",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_refused_is_told_in_one_line(name: str) -> None:
    with pytest.raises(YamlError) as caught:
        parse_yaml(HOSTILE[name])
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_anchors_are_read() -> None:
    assert parse_yaml("a: &x {size_px: 64}\nb: *x\nc: [*x, *x]") == {
        "a": {"size_px": 64},
        "b": {"size_px": 64},
        "c": [{"size_px": 64}] * 2,
    }


@pytest.mark.parametrize("name", HOSTILE)
def test_a_recipe_of_it_is_refused_by_its_path(tmp_path: Path, name: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(HOSTILE[name])
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert str(path) in str(caught.value)


def test_an_override_of_it_is_refused_by_its_key(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("data: {train: a}\nrun: {output_dir: b}\n")
    for name, text in HOSTILE.items():
        with pytest.raises(RecipeError) as caught:
            load_recipe(path, [f"optim.epochs={text}"])
        assert "optim.epochs" in str(caught.value), name
        assert len(str(caught.value)) < 600, name


@pytest.mark.parametrize(
    "change",
    [
        "run.seed=4294967296", "run.seed=-1", "run.timeout_s=99999999999999", "views.both.brightness=1e999",
        "views.a.crop_scale=[0.1, 1e999]", "views.both.crop_ratio=[1e-300, 1e300]",
        "eval.knn_temperature=1e-320", "views.both.std=[1, 1, 1e-300]", "views.b.blur_sigma_px=[1, 1e300]",
        "optim.weight_decay=1e300", "optim.lr_weights=1e999", "optim.warmup_epochs=1e999", "optim.epochs=1000000000000",
        "model.projector=[1000000000000]", "views.both.size_px=100000", "data.prefetch=100000", "model.in_chans=100000",
        "eval.knn_temperature=1e999", "loss.lambda_param=1e999", f"data.train={'x' * 100_000}",
        f"model.backbone={'x' * 100_000}", f"run.output_dir={'y' * 100_000}",
    ],
)  # fmt: skip
def test_values_that_no_run_can_have_are_refused_by_their_key(tmp_path: Path, change: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("data: {train: a}\nrun: {output_dir: b}\n")
    key = change.partition("=")[0].replace("views.both", "views")
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, [change])
    section, _, last = key.rpartition(".")
    assert section.split(".")[0] in str(caught.value)
    assert last in str(caught.value)
    assert len(str(caught.value)) < 600


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_any_text_is_yaml_or_an_error(text: str) -> None:
    try:
        parse_yaml(text)
    except YamlError as error:
        text = str(error)
        assert "\n" not in text


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text("ab c"),
        lambda inner: st.lists(inner, max_size=3),
        max_leaves=20,
    )
)
def test_json_is_read_as_json_reads_it(value: object) -> None:
    assert parse_yaml(json.dumps(value)) == value


def test_a_key_of_many_sections_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("data: {train: a}\nrun: {output_dir: b}\n")
    with pytest.raises(RecipeError, match=r"is not an override; write section\.key=value"):
        load_recipe(path, ["a." * 100_000 + "b=1"])
