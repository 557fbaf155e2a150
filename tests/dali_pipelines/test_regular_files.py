"""Only regular files are read, whatever a path leads to, and nothing waits for a pipe."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dali_pipelines import Backend, EvalLoader, EvalParams
from dali_pipelines.regular_files import NotRegularError, open_regular, read_regular
from tests.conftest import write_image


def strange(folder: Path) -> dict[str, Path]:
    os.mkfifo(folder / "pipe.jpg")
    (folder / "folder.jpg").mkdir()
    (folder / "zero.jpg").symlink_to("/dev/zero")
    (folder / "null.jpg").symlink_to("/dev/null")
    (folder / "linked.jpg").symlink_to(folder / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(folder)  # a socket's path is short
        server.bind("socket.jpg")
    return {path.stem: path for path in folder.iterdir()}


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    monkeypatch.chdir(tmp_path)
    return strange(tmp_path)


def test_what_is_no_file_is_refused_by_its_kind(paths: dict[str, Path]) -> None:
    kinds = {"pipe": "a pipe", "folder": "a folder", "zero": "a device", "null": "a device", "linked": "a pipe"}
    for name, kind in kinds.items():
        for read in (open_regular, read_regular):
            with pytest.raises(NotRegularError, match=rf"{name}\.jpg is {kind}; only regular files are read"):
                read(paths[name])
    with pytest.raises(OSError, match="socket"):
        read_regular(paths["socket"])


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=100_000))
def test_files_are_read_whole(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    assert read_regular(tmp_path / "file") == content
    with open_regular(tmp_path / "file") as file:
        assert file.read() == content
    if content:
        with pytest.raises(OSError, match=f"has {len(content)} bytes, and at most {len(content) - 1} are read"):
            read_regular(tmp_path / "file", len(content) - 1)


@pytest.mark.parametrize("backend", ["native", "dali"])
def test_a_loader_replaces_them_as_bad_files(paths: dict[str, Path], backend: str) -> None:
    folder = paths["pipe"].parent
    paths["folder"].rmdir()  # is no image, but a folder of some
    for number in range(3):
        write_image(folder / f"{number}.jpg", np.full((20, 20, 3), 100, dtype=np.uint8))
    loader = EvalLoader(folder, 2, EvalParams(16, 16), backend=Backend(backend, device="cpu"), max_bad_files=5)  # type: ignore[arg-type]
    names = {name for batch in loader for name in batch.filenames}
    assert names == {"0.jpg", "1.jpg", "2.jpg"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_scan_ends_when_it_is_asked_to(tmp_path: Path, number: signal.Signals) -> None:
    for name in range(3000):
        os.symlink("/proc/self/mem", tmp_path / f"{name}.jpg")  # a regular file that cannot be read
    # Where tests run in the background, a shell has them ignore SIGINT, and what they start inherits that.
    program = f"""
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from dali_pipelines.decoding import read_pixels
read_pixels.why_unreadable = lambda *_: time.sleep(0.05)
from bt_plugin.cli import main
print("ready", flush=True)
raise SystemExit(main(["scan", {str(tmp_path)!r}, "-o", {str(tmp_path / "out")!r}, "--num-threads", "2"]))
"""
    scan = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert scan.stdout is not None
    scan.stdout.readline()
    time.sleep(3)
    asked_s = time.monotonic()
    scan.send_signal(number)
    scan.communicate(timeout=30)
    assert scan.returncode in (130, -signal.SIGTERM)
    assert time.monotonic() - asked_s < 20
