"""A resumed run is one run to its trackers, which also get its pictures."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState, PartialState
from accelerate.tracking import TensorBoardTracker
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bt_plugin.config.recipe_file import load_recipe
from bt_plugin.errors import RecipeError
from bt_plugin.monitoring import trackers
from bt_plugin.training.pretrain import pretrain

PICTURES = {"cross_correlation", "cross_correlation_first", "correlation_histogram", "embedding_spectrum", "views"}


def train(recipe: Path, *overrides: str) -> None:
    AcceleratorState._reset_state()
    PartialState._reset_state()
    pretrain(load_recipe(recipe, ["eval.knn=false", *overrides]))


def in_two_lives(recipe: Path, run_dir: Path, names: str) -> str:
    """Five steps, the third of them twice, evaluated after the fourth; the run's id."""
    told = (f"run.trackers=[{names}]", "eval.every_epochs=1")
    train(recipe, *told, "run.max_steps=3", "run.checkpoint_every_steps=2")
    # As after a kill: step 3 was told, and is in no checkpoint.
    shutil.rmtree(run_dir / "checkpoint-3")
    train(recipe, *told, "run.max_steps=5")
    manifest = json.loads((run_dir / "checkpoint-5" / "manifest.json").read_text())
    run_id: str = manifest["progress"][4]
    return run_id


def test_tensorboard_and_wandb(small_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run_dir = tmp_path / "run"
    run_id = in_two_lives(small_recipe, run_dir, "tensorboard, wandb")
    lives = sorted((run_dir / "wandb").glob("offline-run-*"))
    assert len(lives) == 2
    assert {path.name.rpartition("-")[2] for path in lives} == {run_id}
    assert len(list((lives[1] / "files" / "media" / "images").rglob("*.png"))) == len(PICTURES)
    (events,) = {path.parent for path in (run_dir / "tensorboard").rglob("events.*")}
    accumulator = EventAccumulator(str(events))
    accumulator.Reload()
    assert [scalar.step for scalar in accumulator.Scalars("loss")] == [1, 2, 3, 4, 5]
    assert [scalar.step for scalar in accumulator.Scalars("eval/rankme")] == [4]
    assert set(accumulator.Tags()["images"]) == PICTURES
    (views,) = accumulator.Images("views")
    assert (views.height, views.width, views.step) == (2 * 32, 8 * 32, 4)


def test_mlflow(small_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    # In files: the default is a database, which mlflow-skinny does not bring.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/mlruns")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    run_id = in_two_lives(small_recipe, tmp_path / "run", "mlflow")
    (found,) = mlflow.search_runs(experiment_names=["bt_plugin"], output_format="list")
    assert found.info.run_name == "run"
    assert found.data.tags["bt_plugin.run_id"] == run_id
    assert found.data.params["optim.global_batch_size"] == "8"
    client = mlflow.MlflowClient()
    steps = [metric.step for metric in client.get_metric_history(found.info.run_id, "loss")]
    assert sorted(steps) == [1, 2, 3, 3, 4, 5], "MLflow keeps what was told before the kill"
    files = client.list_artifacts(found.info.run_id, "images")
    assert {re.split("[%+]step", Path(file.path).name)[0] for file in files} == PICTURES


def test_trackio(small_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read once, when it is imported
    run_id = in_two_lives(small_recipe, tmp_path / "run", "trackio")
    with closing(sqlite3.connect(tmp_path / "trackio" / "bt_plugin.db")) as database:
        rows = database.execute("SELECT run_name, step, metrics FROM metrics ORDER BY id").fetchall()
    assert {name for name, _, _ in rows} == {f"run-{run_id[:8]}"}
    assert [step for _, step, metrics in rows if "loss" in json.loads(metrics)] == [1, 2, 3, 3, 4, 5]
    shown = {key for _, _, metrics in rows for key, value in json.loads(metrics).items() if isinstance(value, dict)}
    assert shown == PICTURES
    assert len(list((tmp_path / "trackio" / "media").rglob("4/*.png"))) == len(PICTURES)


def test_one_that_is_not_installed_is_refused(small_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"run\.trackers: wandb is not installed\. Run `pip install wandb`"):
        train(small_recipe, "run.trackers=[wandb]")


def test_a_tracker_that_fails_is_lost_and_the_run_goes_on(
    small_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As a server that is gone: every call fails from the third on, also the last one, which closes the tracker."""
    calls = []

    def log(self: TensorBoardTracker, values: dict[str, float], step: int | None = None, **_: object) -> None:
        calls.append(step)
        if len(calls) > 2:
            raise ConnectionError("the server is gone")

    monkeypatch.setattr(TensorBoardTracker, "log", log)
    train(small_recipe, "run.max_steps=6")
    assert calls == [1, 2, 3]
    assert "run.trackers: tensorboard failed, and the run continues without it: ConnectionError" in caplog.text
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 6


def test_a_tracker_that_does_not_start_is_named(small_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: TensorBoardTracker, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "/logs")

    monkeypatch.setattr(TensorBoardTracker, "start", start)
    monkeypatch.setattr(TensorBoardTracker, "__init__", start)
    with pytest.raises(RecipeError, match=r"run.trackers: tensorboard cannot be started: PermissionError"):
        train(small_recipe, "run.max_steps=2")
