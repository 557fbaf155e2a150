"""Whole runs from Python: what the program gives is used, and a second call resumes the run."""

from __future__ import annotations

import dataclasses
import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.datasets import ImageFolder

import bt_plugin
from bt_plugin.errors import CallbackError, RecipeError
from dali_pipelines import image_folder, several_sources

SHORT = {"optim.epochs": 2, "eval.knn": False}


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return dict(bt_plugin.load_backbone(run_dir).module.state_dict())


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, second[key]) for key, value in first.items())


class Noted(bt_plugin.Callback):
    """A callback that notes what happens."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []

    def on_step(self, done: Any) -> None:
        self.events.append(("step", done))

    def on_log(self, metrics: Any) -> None:
        self.events.append(("log", metrics))

    def on_evaluation(self, metrics: Any) -> None:
        self.events.append(("evaluation", metrics))

    def on_checkpoint(self, checkpoint: Any) -> None:
        assert (checkpoint.path / "manifest.json").is_file(), "it is complete"
        self.events.append(("checkpoint", checkpoint))

    def on_end(self, summary: Any) -> None:
        self.events.append(("end", summary))


def test_a_recipe_in_any_form_gives_the_same_run(small_recipe: Path, tmp_path: Path) -> None:
    """Also images that the program opened itself, and an optimizer of its own."""
    sections = bt_plugin.load_recipe(small_recipe).resolved_dict()
    train = image_folder(sections["data"]["train"])
    del sections["data"]["train"]

    def lars(groups: list[dict[str, Any]], recipe: bt_plugin.Recipe) -> torch.optim.Optimizer:
        assert [group["name"] for group in groups] == ["weights", "biases"]
        return bt_plugin.LARS(groups, lr=0.0, momentum=recipe.optim.momentum)

    forms: dict[str, Any] = {
        "path": (small_recipe, {}),
        "recipe": (bt_plugin.load_recipe(small_recipe), {}),
        "dict": (sections, {"train": train, "val": None, "optimizer": lars}),
    }
    for name, (recipe, given) in forms.items():
        summary = bt_plugin.pretrain(recipe, {**SHORT, "run.output_dir": tmp_path / name}, **given)
        assert summary == dataclasses.replace(summary, step=8, epochs=2.0, knn_top1=None)
        assert json.loads((summary.run_dir / "summary.json").read_text()) == summary.to_dict()
    assert equal(weights(tmp_path / "path"), weights(tmp_path / "recipe"))
    assert equal(weights(tmp_path / "path"), weights(tmp_path / "dict"))
    assert bt_plugin.load_recipe(tmp_path / "dict" / "recipe.yaml").data.train == "<FileSource>"
    with pytest.raises(RecipeError, match=r"data.train: <FileSource> are images that a Python program gave"):
        bt_plugin.evaluate(tmp_path / "dict")
    found = bt_plugin.evaluate(tmp_path / "dict", "knn", overrides={"knn.k": 5}, train=train)
    assert found["images"] == 12


def test_an_interrupted_run_of_a_dataset_resumes_bit_for_bit(small_recipe: Path, tmp_path: Path) -> None:
    """Ctrl-C in the middle, then the same call."""
    folder = bt_plugin.load_recipe(small_recipe).data.train
    changes = {**SHORT, "run.checkpoint_every_steps": 1}

    class Interrupts(bt_plugin.Callback):
        def on_step(self, done: Any) -> None:
            if done.step == 3:
                signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            bt_plugin.pretrain(small_recipe, changes, train=ImageFolder(folder), callbacks=[Interrupts()])
    finally:
        signal.signal(signal.SIGINT, before)
    noted = Noted()
    bt_plugin.pretrain(small_recipe, changes, train=ImageFolder(folder), callbacks=[noted])
    steps = [event.step for kind, event in noted.events if kind == "step"]
    assert steps[0] in (2, 3)
    assert steps[-1] == 8
    whole = {**changes, "run.output_dir": tmp_path / "whole"}
    bt_plugin.pretrain(small_recipe, whole, train=ImageFolder(folder))
    assert equal(weights(tmp_path / "run"), weights(tmp_path / "whole"))


def test_callbacks_receive_what_happened(small_recipe: Path, tmp_path: Path) -> None:
    noted = Noted()
    summary = bt_plugin.pretrain(small_recipe, {**SHORT, "eval.every_epochs": 1}, callbacks=[noted])
    events = {kind: [event for name, event in noted.events if name == kind] for kind, _ in noted.events}
    assert [done.step for done in events["step"]] == list(range(1, 9))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [{"step": m.step, "epoch": m.epoch, **m.values} for m in events["log"]] == lines
    assert [float(done.terms.loss) for done in events["step"]] == [line["loss"] for line in lines]
    assert events["step"][2].rates.keys() == {"lr_weights", "lr_biases"}
    evaluations = (tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()
    assert [dict(m.values)["rankme"] for m in events["evaluation"]] == [json.loads(e)["rankme"] for e in evaluations]
    assert [(c.step, c.path.name) for c in events["checkpoint"]] == [(4, "checkpoint-4"), (8, "checkpoint-8")]
    assert events["end"] == [summary]
    assert noted.events[-1][0] == "end"
    with pytest.raises(TypeError, match="does not support item assignment"):
        events["log"][0].values["loss"] = 0.0


def test_a_callback_cannot_change_the_run(small_recipe: Path, tmp_path: Path, trained_run: Path) -> None:
    class Meddles(bt_plugin.Callback):
        def on_step(self, done: Any) -> None:
            done.terms.loss.zero_()

    bt_plugin.pretrain(small_recipe, {"eval.every_epochs": 1}, callbacks=[Meddles()])
    assert equal(weights(tmp_path / "run"), weights(trained_run))
    losses = [
        [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (tmp_path / "run", trained_run)
    ]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("method", ["on_step", "on_log", "on_evaluation", "on_checkpoint"])
def test_a_callback_that_fails_is_named_and_the_run_resumes(small_recipe: Path, tmp_path: Path, method: str) -> None:
    def fail(self: Any, event: Any) -> None:
        if event.step >= 2:
            raise KeyError("oh")

    failing = type("Failing", (bt_plugin.Callback,), {method: fail})()
    changes = {**SHORT, "eval.every_epochs": 1 if method == "on_evaluation" else None}
    with pytest.raises(CallbackError, match=rf"callback Failing.{method} failed at step \d: KeyError: 'oh'") as error:
        bt_plugin.pretrain(small_recipe, changes, callbacks=[failing])
    assert isinstance(error.value.__cause__, KeyError)
    # Rank 0 stops at once, with a checkpoint of the step that it had done.
    step = max(int(path.name.rpartition("-")[2]) for path in (tmp_path / "run").glob("checkpoint-*"))
    assert step == {"on_step": 2, "on_log": 2, "on_evaluation": 4}.get(method, step)
    if method == "on_step":
        assert bt_plugin.pretrain(small_recipe, changes).step == 8


def test_a_failing_end_is_named(small_recipe: Path, tmp_path: Path) -> None:
    class Fails(bt_plugin.Callback):
        def on_end(self, summary: Any) -> None:
            raise OSError("no upload")

    with pytest.raises(CallbackError, match=r"callback Fails\.on_end failed at step 1: OSError: no upload"):
        bt_plugin.pretrain(small_recipe, {**SHORT, "run.max_steps": 1}, callbacks=[Fails()])
    assert (tmp_path / "run" / "summary.json").is_file()


def test_what_is_no_callback_is_refused_before_the_run(small_recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"callbacks: <function .* is not a bt_plugin.Callback"):
        bt_plugin.pretrain(small_recipe, callbacks=[lambda: None])  # type: ignore[list-item]
    assert not (tmp_path / "run").exists()


def test_check_counts(small_recipe: Path) -> None:
    plan = bt_plugin.check(small_recipe, ["optim.epochs=5"], world_size=2)
    assert (plan.batch_size_per_rank, plan.num_images, plan.steps_per_epoch, plan.total_steps) == (4, 36, 4, 20)
    folder = bt_plugin.load_recipe(small_recipe).data.train
    assert bt_plugin.check(small_recipe, train=ImageFolder(folder)).num_images == 36
    assert bt_plugin.check(small_recipe, num_images=800).steps_per_epoch == 100
    with pytest.raises(RecipeError, match="train: list has no items"):
        bt_plugin.check(small_recipe, train=[])


def test_every_bundled_recipe_is_listed() -> None:
    assert bt_plugin.list_recipes()["pretrain/quickstart"].is_file()


def test_a_list_of_paths_and_sources_is_several_sources(small_recipe: Path, small_data: Path) -> None:
    train = small_data / "train"
    weights = {"data.weights": [1, 0.5]}
    plan = bt_plugin.check(small_recipe, weights, train=[train, str(train)])
    assert (plan.num_images, plan.recipe.data.train) == (36 + 18, (str(train), str(train)))
    mixed = bt_plugin.check(small_recipe, train=[train, image_folder(small_data / "val")])
    assert (mixed.num_images, mixed.recipe.data.train) == (36 + 12, "<list>")
    source = several_sources([image_folder(train)] * 2, [1, 2])
    assert bt_plugin.check(small_recipe, train=source).num_images == 3 * 36
    with pytest.raises(RecipeError, match=r"data\.weights: .* only with a list of sources, and data\.train is <list>"):
        bt_plugin.check(small_recipe, weights, train=[train, image_folder(train)])
