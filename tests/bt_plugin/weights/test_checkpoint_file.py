"""Files of weights that are damaged or of no use: told by name, in bounded time."""

from __future__ import annotations

import collections
import io
import json
import os
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torch import Tensor

from bt_plugin.errors import FileError, UserError, WeightsError
from bt_plugin.models.backbones import build_backbone
from bt_plugin.weights.checkpoint_file import read_content, read_safetensors
from bt_plugin.weights.export_folder import load_backbone, write_imported_export
from bt_plugin.weights.read_weights import read_weights
from tests.bt_plugin.weights.foreign_weights import official, resnet, saved

KEY = "layer1.0.conv1.weight"


def changed(change: Callable[[Tensor], Any], key: str = KEY) -> dict[str, Any]:
    state = dict(resnet().state_dict())
    return state | {key: change(state[key])}


def with_nan(value: Tensor) -> Tensor:
    value = value.clone()
    value.view(-1)[:12] = torch.nan
    return value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_nan, rf"12 of 36864 values of {KEY} are NaN\. Use another checkpoint"),
        (lambda value: with_nan(value.half()), "12 of 36864 values of .* are NaN"),
        (lambda value: torch.full_like(value, torch.inf), "36864 of 36864 values of .* are infinite"),
        (lambda value: value.double().sign() * 1e300, "are infinite"),
        (lambda value: value.to(torch.complex64), rf"{KEY} has values of complex64. Save the network's state_dict"),
        (lambda value: value.to(torch.float8_e4m3fn), "has values of float8_e4m3fn"),
        (lambda value: value.to_sparse(), "is sparse"),
        (lambda value: value.to("meta"), "is on the meta device, without values"),
        (lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8), "is quantized"),
        (lambda value: torch.zeros(1).expand(value.shape), "claims 36864 values, but 1 are stored"),
        (lambda value: torch.zeros(1).expand(2**37), "claims 137438953472 values, but 1 are stored"),
        (lambda value: value.to(torch.int8), f"{KEY} has values of int8. Save"),
        (lambda value: torch.nested.nested_tensor([value, value[:1]]), "is a Tensor, not a plain tensor"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_weights_that_no_network_can_use(tmp_path: Path, change: Callable[[Tensor], Any], message: str) -> None:
    path = saved({"state_dict": changed(change)}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=rf"{path}.*{message}"):
        read_weights(path)


def test_what_is_left_out_may_be_damaged(tmp_path: Path) -> None:
    state = changed(lambda value: value) | {"fc.weight": torch.full((2, 512), torch.nan)}
    optimizer = {"state": {0: {"momentum_buffer": torch.tensor(torch.inf).to_sparse()}}}
    weights = read_weights(saved({"state_dict": state, "optimizer": optimizer}, tmp_path / "a.pth"))
    assert weights.dropped == ["optimizer", "the classifier, fc.weight"]


def test_a_key_longer_than_any_networks_is_refused(tmp_path: Path) -> None:
    path = saved({**resnet().state_dict(), "x" * 10**6: torch.ones(1)}, tmp_path / "w.pth")
    for backbone in (None, "torchvision/resnet18"):
        with pytest.raises(WeightsError, match=r"w\.pth has a key of 1000000 characters, x+\.\.\.\. The limit is 500"):
            read_weights(path, backbone)


def test_a_negative_variance_is_refused(tmp_path: Path) -> None:
    path, _ = official(tmp_path)
    content = torch.load(path)
    content["model"]["module.backbone.bn1.running_var"][3] = -1.0
    with pytest.raises(WeightsError, match=r"bn1\.running_var has negative variances\. Use another checkpoint"):
        read_weights(saved(content, path))


def test_a_folder_whose_name_is_not_utf8_is_read(tmp_path: Path) -> None:
    path = tmp_path / "caf\udce9.safetensors"
    path.write_bytes(save({"weight": torch.ones(3)}))
    assert torch.equal(read_safetensors(path)["weight"], torch.ones(3))


def test_a_projector_of_nan_is_refused(tmp_path: Path) -> None:
    path, _ = official(tmp_path)
    content = torch.load(path)
    content["model"]["module.projector.1.running_mean"][3] = torch.nan
    with pytest.raises(WeightsError, match=r"1 of 24 values of 1\.running_mean are NaN"):
        read_weights(saved(content, path))


@pytest.mark.parametrize("key", [1, None, ("a", 2), 2.5, b"conv1.weight"])
def test_keys_that_are_no_text(tmp_path: Path, key: Any) -> None:
    path = saved({"state_dict": {key: torch.ones(1), "b": torch.ones(1)}}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"a\.pth has the key .*, which is not text"):
        read_weights(path)


def test_attributes_of_tensors_and_dictionaries_are_ignored(tmp_path: Path) -> None:
    """A file may give its objects attributes, which hide their methods."""
    state = changed(lambda value: value)
    for value in state.values():
        value.is_floating_point = value.float = 5

    class Ordered:
        def __reduce__(self) -> tuple[Any, ...]:
            return collections.OrderedDict, (), {"items": 7, "keys": 7, "get": 7}, None, iter(state.items())

    weights = read_weights(saved({"state_dict": Ordered()}, tmp_path / "a.pth"))
    assert torch.equal(weights.backbone[KEY], torch.Tensor.detach(state[KEY]))


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    for name in ("a.pth", "a.safetensors"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(FileError, match=f"{name}: is a pipe; only regular files are read"):
            read_weights(tmp_path / name)
    with pytest.raises(FileError, match="is a device"):
        read_weights("/dev/zero")


def test_zeroed_bytes_of_an_archive_are_found(tmp_path: Path) -> None:
    """torch itself does not compare the checksums that it writes."""
    path = saved(resnet().state_dict(), tmp_path / "a.pth")
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 64] = bytes(64)
    path.write_bytes(content)
    torch.load(path, mmap=True)
    with pytest.raises(WeightsError, match=r"a\.pth is not a file of torch\.save or safetensors, or is damaged"):
        read_weights(path)


def test_an_archive_without_checksums_is_read(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        path = saved(resnet().state_dict(), tmp_path / "a.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert read_weights(path).feature_dim == 512


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    whole = io.BytesIO()
    torch.save({"a": torch.zeros(2**24)}, whole)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(tmp_path / "a.pth", "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    assert (tmp_path / "a.pth").stat().st_size < 2**18
    with pytest.raises(WeightsError, match="or is damaged"):
        read_content(tmp_path / "a.pth")


SMALL = {"conv1.weight": torch.arange(6.0).reshape(2, 3), "bn1.bias": torch.ones(4, dtype=torch.float16)}


def archive(state: dict[str, Tensor], new_format: bool) -> bytes:
    content = io.BytesIO()
    torch.save(state, content, _use_new_zipfile_serialization=new_format)
    return content.getvalue()


WHOLE = {"a.safetensors": save(SMALL), "new.pth": archive(SMALL, True), "old.pth": archive(SMALL, False)}


def read_or_told(path: Path, content: bytes) -> dict[Any, Any] | None:
    """The content, or None after an error that names the file; any other error is the test's."""
    path.write_bytes(content)
    start_s = time.monotonic()
    try:
        return read_content(path)
    except UserError as error:
        told = str(error)
    assert str(path) in told
    assert len(told) < 2000
    assert time.monotonic() - start_s < 5
    return None


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(WHOLE)), st.data())
def test_a_cut_file_is_told(tmp_path: Path, name: str, data: st.DataObject) -> None:
    content = WHOLE[name]
    found = read_or_told(tmp_path / name, content[: data.draw(st.integers(0, len(content) - 1))])
    # Of the older format, the last bytes are not read.
    assert found is None or {key: value.tolist() for key, value in found.items()} == {
        key: value.tolist() for key, value in SMALL.items()
    }


@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(WHOLE)), st.lists(st.tuples(st.integers(0), st.integers(1, 255)), min_size=1, max_size=4))
def test_flipped_bytes_are_told(tmp_path: Path, name: str, flips: list[tuple[int, int]]) -> None:
    """The new format has checksums of its tensors; those of the others may change, and nothing else happens."""
    content = bytearray(WHOLE[name])
    for place, bits in flips:
        content[place % len(content)] ^= bits
    found = read_or_told(tmp_path / name, bytes(content))
    if found is not None and name == "new.pth":
        assert {key: value.tolist() for key, value in found.items()} == {
            key: value.tolist() for key, value in SMALL.items()
        }


def test_an_archive_of_several_disks_is_told(tmp_path: Path) -> None:
    """zipfile itself ended with an error of its own; found by trying damaged files."""
    content = bytearray(WHOLE["new.pth"])
    locator = content.rindex(b"PK\x06\x07")
    content[locator + 16] = 9
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=r"a\.pth is not a file of torch\.save or safetensors, or is damaged"):
        read_content(tmp_path / "a.pth")


ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "BF16", "F8_E4M3", "I64", "BOOL", "C64", "F4", "X", ""]),
        "shape": st.lists(st.integers(-1, 2**64), max_size=4),
        "data_offsets": st.lists(st.integers(-1, 2**64), max_size=3),
    }
)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.text(), ENTRY | st.none() | st.text()), st.binary(max_size=64), st.integers(-9, 9))
def test_a_header_that_lies_is_told(tmp_path: Path, header: dict[str, Any], body: bytes, longer: int) -> None:
    text = json.dumps(header).encode()
    content = struct.pack("<Q", max(0, len(text) + longer)) + text + body
    found = read_or_told(tmp_path / "a.safetensors", content)
    assert found is None or sum(value.nbytes for value in found.values()) <= len(body)


@pytest.mark.parametrize("size", [2**63, 2**64 - 1, 10**8 + 1, 2**31])
def test_a_header_of_any_length_is_told(tmp_path: Path, size: int) -> None:
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", size) + b"{}")
    with pytest.raises(WeightsError, match=r"a\.safetensors is not a safetensors file, or is damaged"):
        read_safetensors(tmp_path / "a.safetensors")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = saved(resnet().state_dict(), tmp_path / "a.pth")
    write_imported_export(read_weights(path), tmp_path / "export", path)
    return tmp_path / "export"


def test_an_export_that_is_damaged_is_told(folder: Path) -> None:
    weights = folder / "backbone.safetensors"
    whole = weights.read_bytes()
    for content in (b"", whole[:-1], whole + b"\0", whole[:4000], struct.pack("<Q", 2**40) + whole[8:]):
        weights.write_bytes(content)
        for read in (load_backbone, read_weights):
            with pytest.raises(WeightsError, match=rf"{weights} is not a safetensors file, or is damaged"):
                read(folder)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": torch.ones(1)}, r"does not fit the backbone of .*model\.json: .*Copy the folder again"),
        (dict(build_backbone("torchvision/resnet34").module.state_dict()), "does not fit the backbone of"),
        (changed(with_nan), "12 of 36864 values of .* are NaN"),
        (changed(lambda value: value.to(torch.complex64)), "has values of complex64"),
    ],
)
def test_weights_of_another_network_are_told(folder: Path, state: dict[str, Tensor], message: str) -> None:
    (folder / "backbone.safetensors").write_bytes(save(state))
    for read in (load_backbone, read_weights):
        with pytest.raises(WeightsError, match=rf"backbone\.safetensors.*{message}"):
            read(folder)


def test_a_foreign_projector_is_told(folder: Path) -> None:
    (folder / "projector.safetensors").write_bytes(b"foreign")
    for read in (load_backbone, read_weights):
        with pytest.raises(WeightsError, match=r"projector\.safetensors is not a safetensors file"):
            read(folder)
