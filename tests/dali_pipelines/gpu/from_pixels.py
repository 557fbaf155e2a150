"""Run crops of the native backend and of images on the device through the interpreted kernels, and compare the views.

It is a program, because TRITON_INTERPRET must be set before Triton is imported.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import torch

from dali_pipelines import PRESETS, Backend
from dali_pipelines.gpu.batches import BatchAugmenter
from dali_pipelines.gpu.pixels import PixelStream, pixels_on
from dali_pipelines.native.outputs import DeviceOutputs
from dali_pipelines.native.stream import NativeStream, resized_crop
from dali_pipelines.plans import Plan
from dali_pipelines.sources import array_source
from dali_pipelines.streams import view_stream
from dali_pipelines.views.draws import draw_views

N = 6
CPU = torch.device("cpu")


def main() -> None:
    torch.set_num_threads(1)
    views = PRESETS[sys.argv[1]].changed(size_px=33).views
    blocks = np.random.default_rng(0).integers(0, 256, (2 * N, 5, 5, 3), dtype=np.uint8)
    source = array_source(blocks.repeat(8, axis=1).repeat(8, axis=2))
    backend = Backend("native", device="cpu").resolve()
    plans = [Plan(np.arange(N) + step * N, draw_views(views, N, step)) for step in range(2)]
    expected = view_stream(source, views, plans=iter(plans), batch_size=N, backend=backend)
    makers = [resized_crop(view, number) for number, view in enumerate(views)]
    outputs = DeviceOutputs(BatchAugmenter(views), CPU)
    native = NativeStream(source, makers, outputs=outputs, plans=iter(plans), backend=backend)
    device = PixelStream(pixels_on(CPU, source), views, plans=iter(plans), finish=BatchAugmenter(views))
    native_bits, device_mean = 0, []
    for (_, whole), (_, ours), (_, theirs) in zip(expected, native, device, strict=True):
        for view, by_native, by_device in zip(whole, ours, theirs, strict=True):
            native_bits += int((view.contiguous().view(torch.int32) != by_native.contiguous().view(torch.int32)).sum())
            device_mean.append(float((view - by_device).abs().mean()) * 255 * 0.226)
    json.dump({"native_bits": native_bits, "device_mean": max(device_mean)}, sys.stdout)


if __name__ == "__main__":
    main()
