"""Readers of files that others wrote, each as a function of bytes: only what is promised is let through."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

MOST_CHARACTERS = 4000

# In memory where there is such a file system, for a fuzzer writes thousands of files a second.
_FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)


def recipe(content: bytes) -> None:
    """A recipe's text."""
    from bt_plugin.config.recipe_file import load_recipe
    from bt_plugin.errors import UserError

    path = _file("recipe.yaml", content)
    try:
        load_recipe(path)
    except UserError as error:
        _check_message(error, path)


def file_list(content: bytes) -> None:
    """A list of images: .csv, .tsv or .txt, which the first byte chooses."""
    path = _file(("list.csv", "list.tsv", "list.txt")[content[0] % 3 if content else 0], content[1:])
    _open_source(path)


def tar_shard(content: bytes) -> None:
    """A shard, whose images are read."""
    _open_source(_file("shard.tar", content))


def arrays(content: bytes) -> None:
    """A .npy or .npz file, which the content tells."""
    _open_source(_file("arrays.npz" if content[:2] == b"PK" else "arrays.npy", content))


def weights(content: bytes) -> None:
    """A file of weights: of torch.save or of safetensors, which the content tells."""
    from bt_plugin.errors import UserError
    from bt_plugin.weights.read_weights import read_weights

    is_torch = content[:2] == b"PK" or content[:1] == b"\x80"
    path = _file("weights.pth" if is_torch else "weights.safetensors", content)
    try:
        read_weights(path)
    except UserError as error:
        _check_message(error, path)


def metrics(content: bytes) -> None:
    """RUN/metrics.jsonl, of which damaged lines are left out; read by a report and by a run that resumes."""
    from bt_plugin.monitoring.metrics_file import MetricsFile, read_lines

    path = _file("metrics.jsonl", content)
    lines = read_lines(path)
    assert all(isinstance(line["step"], int) for line in lines), "each line has a step"
    MetricsFile(path.parent, 7).close()
    kept = read_lines(path)
    assert [line for line in lines if line["step"] <= 7] == kept, "a resumed run keeps the lines up to its step"


def model(content: bytes) -> None:
    """EXPORT/model.json."""
    from bt_plugin.errors import UserError
    from bt_plugin.weights.model_file import read_model_file

    path = _file("model.json", content)
    try:
        read_model_file(path.parent)
    except UserError as error:
        _check_message(error, path)


def deep_image(content: bytes) -> None:
    """An image of more than 8 bits: TIFF, PNG, JPEG 2000, .npy or DICOM. Its decoders may raise what they like."""
    import numpy as np

    from dali_pipelines.depth.decoded import Request
    from dali_pipelines.depth.readers import read_image
    from dali_pipelines.depth.source import levels

    try:
        decoded = read_image(np.frombuffer(content, dtype=np.uint8), Request(None, 100_000))
    except Exception:  # a bad image, which the loader names
        return
    height, width, channels = decoded.values.shape
    assert 0 < height * width <= 100_000
    pixels = levels(decoded, ((0.0, 4095.0),) * channels)
    assert pixels.shape == (height, width, channels)
    assert np.isfinite(pixels).all()
    assert 0 <= pixels.min() <= pixels.max() <= 255


TARGETS: dict[str, Callable[[bytes], None]] = {
    function.__name__: function
    for function in (recipe, file_list, tar_shard, arrays, deep_image, weights, metrics, model)
}


def _open_source(path: Path) -> None:
    from dali_pipelines.sources import open_source

    try:
        source = open_source(path)
    except ValueError as error:
        # UnicodeDecodeError and others of its kinds do not name the file.
        if type(error) is not ValueError:
            raise
        _check_message(error, path)
        return
    assert len(source) == len(source.labels) > 0
    assert not source.has_labels or 0 <= source.labels.min() <= source.labels.max() < len(source.classes)
    for index in range(min(len(source), 20)):
        try:
            source.read(index)
        except OSError:
            continue
        source.place(index)


def _file(name: str, content: bytes) -> Path:
    path = _FOLDER / name
    path.write_bytes(content)
    return path


def _check_message(error: Exception, path: Path) -> None:
    message = str(error)
    assert path.name in message, f"the file is not named: {message[:300]}"
    assert len(message) <= MOST_CHARACTERS, f"{len(message)} characters: {message[:300]}"
