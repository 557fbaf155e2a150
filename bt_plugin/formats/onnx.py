"""Write an ONNX file for batches of any size."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from bt_plugin.errors import WeightsError
from bt_plugin.formats.exported import Exported
from bt_plugin.runs.atomic_file import write_atomically

SUFFIX = ".onnx"
# ONNX 1.15 and onnxruntime 1.17 or newer have this opset.
OPSET = 20
# Largest size of one file, by protobuf's limit.
_MOST_BYTES = 2**31 - 1


def write(exported: Exported, path: Path) -> None:
    """Write the backbone, and compare onnxruntime's features with torch's on random images.

    Raises:
        ImportError: If ONNX's packages are missing.
        WeightsError: If the backbone cannot be traced, is too large, or the features differ.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"--to onnx cannot import {error.name or error}. Run pip install onnx onnxscript onnxruntime, or"
            " 'bt-plugin[export]'"
        ) from error

    module = exported.module()
    if sum(value.nbytes for value in module.state_dict().values()) > _MOST_BYTES:
        raise WeightsError("--to onnx: the backbone has more than 2 GiB, the limit of one file. Use --to torch-export")
    try:
        program = torch.onnx.export(
            module,
            (exported.images(2),),
            input_names=["images"],
            output_names=["features"],
            opset_version=OPSET,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
        )
    except torch.onnx.errors.OnnxExporterError as error:
        raise WeightsError(
            f"--to onnx: the backbone cannot be converted: {str(error).splitlines()[0]}. Use --to safetensors"
        ) from error
    assert program is not None  # only exports without dynamo return None
    write_atomically(path, program.model_proto.SerializeToString())
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def features(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])

    exported.check("onnx", features)


def usage(exported: Exported, path: Path) -> str:
    """Return the code with which onnxruntime loads it."""
    shape = f"(n, {exported.in_chans}, {exported.size_px}, {exported.size_px})"
    return (
        f"session = onnxruntime.InferenceSession({str(path)!r})\n"
        f'(features,) = session.run(None, {{"images": images}})  # {shape} float32, normalized'
    )
