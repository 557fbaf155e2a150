"""Nothing in a checkpoint is run, whatever it holds; checkpoints of before November 2026 still resume."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.distributed.checkpoint import metadata

from bt_plugin.checkpoints.folder import check_undamaged, damage_of, read_metadata
from bt_plugin.checkpoints.random_states import from_pickle, random_states, set_random_states
from bt_plugin.checkpoints.reader import CheckpointReader, read_state
from bt_plugin.errors import CheckpointError
from tests.saved import save, state_of

CPU = torch.device("cpu")


class Calls:
    """Pickles as a call, which a plain unpickler makes."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def attacks(sentinel: Path) -> dict[str, Any]:
    touch = f"open({str(sentinel)!r}, 'w').close()"
    nested = io.BytesIO()
    torch.save(Calls(os.system, f"touch {sentinel}"), nested)
    return {
        "exec": Calls(exec, touch),
        "eval": Calls(eval, touch),
        "os.system": Calls(os.system, f"touch {sentinel}"),
        "os.mkdir": Calls(os.mkdir, str(sentinel)),
        "getattr": Calls(getattr, "text", "upper"),
        "getattr of a record": Calls(getattr, metadata._MEM_FORMAT_ENCODING, "mro"),
        "inside of torch": Calls(torch.storage._load_from_bytes, nested.getvalue()),
        "torch.load": Calls(torch.load, io.BytesIO(nested.getvalue())),
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return save(state_of(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))), tmp_path_factory.mktemp("run"), 1)


def copied(checkpoint: Path, folder: Path) -> Path:
    copy = folder / checkpoint.name
    copy.mkdir()
    for file in checkpoint.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


def restored(checkpoint: Path, with_random_states: bool = True) -> nn.Module:
    state = state_of(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)))
    state.restore(checkpoint, with_random_states)
    return state._model


@pytest.mark.parametrize("attack", attacks(Path("none")))
def test_metadata_that_calls_anything_is_refused_and_not_run(whole: Path, tmp_path: Path, attack: str) -> None:
    bad, sentinel = copied(whole, tmp_path), tmp_path / "ran"
    (bad / ".metadata").write_bytes(pickle.dumps(attacks(sentinel)[attack]))
    with pytest.raises(CheckpointError, match=r"\.metadata cannot be read: it names \S+, which"):
        restored(bad)
    assert not sentinel.exists()


class PicklerOfPython3112(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        return (getattr, (type(value), value.name)) if isinstance(value, Enum) else NotImplemented


def test_a_checkpoint_of_python_3_11_2_is_read(whole: Path, tmp_path: Path) -> None:
    """Its enums name getattr, as Debian 12's Python 3.11.2 writes them."""
    copy, content = copied(whole, tmp_path), io.BytesIO()
    PicklerOfPython3112(content).dump(pickle.loads((whole / ".metadata").read_bytes()))
    assert b"getattr" in content.getvalue()
    (copy / ".metadata").write_bytes(content.getvalue())
    metadata_of = CheckpointReader(copy).read_metadata()
    assert metadata_of.state_dict_metadata == CheckpointReader(whole).read_metadata().state_dict_metadata
    for name, tensor in restored(whole).state_dict().items():
        torch.testing.assert_close(restored(copy, with_random_states=False).state_dict()[name], tensor, rtol=0, atol=0)


@pytest.mark.parametrize("attack", attacks(Path("none")))
def test_random_states_that_call_anything_are_refused_and_not_run(tmp_path: Path, attack: str) -> None:
    sentinel = tmp_path / "ran"
    content = (random.getstate(), np.random.get_state(), torch.get_rng_state(), attacks(sentinel)[attack])
    with pytest.raises(Exception, match=r"it names|[Uu]npickl|weights_only") as caught:
        from_pickle(pickle.dumps(content))
    assert isinstance(caught.value, CheckpointError)
    assert not sentinel.exists()


@pytest.mark.parametrize("attack", attacks(Path("none")))
def test_numbers_that_call_anything_are_refused_and_not_run(tmp_path: Path, attack: str) -> None:
    """Numbers and text are files of torch.save within a checkpoint's."""
    sentinel = tmp_path / "ran"
    dcp.save({"rate": attacks(sentinel)[attack]}, checkpoint_id=tmp_path / "bad", no_dist=True)
    sentinel.unlink(missing_ok=True)
    with pytest.raises(
        CheckpointError, match="rate is damaged, or holds Python objects, which bt-plugin does not load"
    ) as caught:
        read_state(tmp_path / "bad", {"rate": 0.1}, alone=True)
    assert "weights_only" not in str(caught.value), "torch advises to run it"
    assert not sentinel.exists()


@pytest.mark.parametrize("path", ["../outside", "/etc/hostname", "sub/part", ""])
def test_parts_of_other_folders_are_not_read(whole: Path, tmp_path: Path, path: str) -> None:
    bad = copied(whole, tmp_path)
    metadata = CheckpointReader(whole).read_metadata()
    for entry in metadata.storage_data.values():
        entry.relative_path = path
    (bad / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(CheckpointError, match="is not a file of this checkpoint"):
        restored(bad)


def test_a_part_that_is_a_pipe_is_refused_at_once(whole: Path, tmp_path: Path) -> None:
    bad = copied(whole, tmp_path)
    (bad / "__0_0.distcp").unlink()
    os.mkfifo(bad / "__0_0.distcp")
    with pytest.raises(CheckpointError, match="is a pipe; only regular files are read"):
        restored(bad)
    with pytest.raises(CheckpointError, match=r"is damaged: __0_0\.distcp is missing"):
        check_undamaged(bad)


@pytest.mark.parametrize("protocol", [4, 5])
def test_random_states_of_an_older_version_come_back(tmp_path: Path, protocol: int) -> None:
    random.gauss(0, 1)  # leaves a second number in the state
    np.random.standard_normal()
    expected = random_states(CPU)
    old = (random.getstate(), np.random.get_state(), torch.get_rng_state(), None)
    state = state_of(nn.Linear(3, 2))
    current = {**state._current(), "random": {"0": pickle.dumps(old, protocol)}}
    dcp.save(current, checkpoint_id=tmp_path / "old", no_dist=True)
    for draw in (lambda: random.gauss(0, 1), lambda: np.random.standard_normal(700), lambda: torch.rand(700)):
        draw()
    state.restore(tmp_path / "old", with_random_states=True)
    for name, value in random_states(CPU).items():
        assert torch.equal(value.nan_to_num(), expected[name].nan_to_num()), name


def test_damaged_random_states_are_an_error() -> None:
    states = random_states(CPU)
    for name in states:
        with pytest.raises(CheckpointError, match="random states are damaged"):
            set_random_states({**states, name: states[name][:0].clone()}, CPU)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_metadata_is_read_whole_or_refused_by_name(
    whole: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray((whole / ".metadata").read_bytes())
    expected = restored(whole).state_dict()
    if data.draw(st.booleans(), label="cut"):
        content = content[: data.draw(st.integers(0, len(content) - 1), label="at")]
    else:
        content[data.draw(st.integers(0, len(content) - 1), label="at")] ^= data.draw(st.integers(1, 255), label="by")
    bad = copied(whole, tmp_path_factory.mktemp("cut"))
    (bad / ".metadata").write_bytes(content)
    try:
        found = restored(bad).state_dict()
    except CheckpointError as error:
        found = expected if str(bad) in str(error) else {}
    assert found.keys() == expected.keys()
    if not all(torch.equal(found[key], expected[key]) for key in expected):
        # A few single bits exchange two records of the same form. The hash in the manifest finds them before.
        assert damage_of(bad) == ".metadata differs from what was written"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"step": -5}, "step"),
        ({"step": 10**15}, "of step"),
        ({"step": "one"}, "step"),
        ({"loader": {"epoch": 0}}, "step"),
        ({"loader": {"epoch": -1, "step": 0}}, "epoch"),
        ({"loader": []}, "loader"),
        ({"world_size": 0}, "world_size"),
        ({"best": {"loss": "low"}}, "best"),
    ],
)
def test_a_manifest_of_other_values_is_refused_by_its_key(
    whole: Path, tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    bad = copied(whole, tmp_path)
    manifest = json.loads((whole / "manifest.json").read_text())
    progress = dict(zip(("step", "loader", "nonfinite_steps", "world_size", "run_id", "best"), manifest["progress"]))
    manifest["progress"] = list((progress | change).values())
    (bad / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=rf"manifest\.json is .*{says}"):
        read_metadata(bad)


@pytest.mark.parametrize("named", [[], [".metadata"], ["__0_0.distcp"]])
def test_a_manifest_that_does_not_name_every_part_is_damage(whole: Path, tmp_path: Path, named: list[str]) -> None:
    bad = copied(whole, tmp_path)
    manifest = json.loads((whole / "manifest.json").read_text())
    manifest["files"] = {name: manifest["files"][name] for name in named}
    (bad / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=r"is damaged: manifest\.json does not name"):
        check_undamaged(bad)
    check_undamaged(whole)
