"""DALI's graphs for device gpu, checked operator by operator without a GPU.

Pipeline._build_graph makes a graph in Python alone. Each operator is then compared with the registries and schemas of
the installed DALI: it exists for its device, that device can read its inputs, and its arguments are known.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

backend = pytest.importorskip("nvidia.dali.backend")

from nvidia.dali.pipeline import DataNode  # noqa: E402

from dali_pipelines.dali import graphs  # noqa: E402
from dali_pipelines.dali.deep_images import Deep  # noqa: E402
from dali_pipelines.depth.for_dali import Stored  # noqa: E402
from dali_pipelines.views.params import PRESETS, EvalParams, Preset, Tuning  # noqa: E402

REGISTERED = {
    "cpu": set(backend.RegisteredCPUOps(internal_ops=True)),
    "gpu": set(backend.RegisteredGPUOps(internal_ops=True)),
    "mixed": set(backend.RegisteredMixedOps(internal_ops=True)),
}
# Every operator has these next to those of its schema.
OF_ALL = {"device", "preserve", "preserve_name", "_display_name", "_module"} | {
    f"_origin_stack_{name}" for name in ("filename", "line", "lineno", "name")
}
COMMON: dict[str, Any] = {
    "source": lambda: [],
    "max_pixels": 10**7,
    "device": "gpu",
    "device_id": 0,
    "batch_size": 8,
    "num_threads": 2,
    "prefetch_queue_depth": 2,
}
FIVE = Preset(
    tuple(
        replace(view, channels=5, mean=(0.5,) * 5, std=(0.2,) * 5, saturation=0.0, hue=0.0, gray_p=0.0)
        for view in PRESETS["barlow_twins"].views
    )
)
PLAIN = PRESETS["barlow_twins"]
TUNINGS = {
    "as it is": Tuning(),
    "region": Tuning(decode="region"),
    "float16": Tuning(float16=True),
    "software decoder": Tuning(hw_decoder_load=0.0),
}


def two_views(
    kind: str = "encoded", preset: Preset = PLAIN, tuning: Tuning = TUNINGS["as it is"], **options: Any
) -> Any:
    return graphs.two_views(kind=kind, views=preset.views, tuning=tuning, **options, **COMMON)


def eval_view(kind: str = "encoded", params: EvalParams = EvalParams(), **options: Any) -> Any:  # noqa: B008
    return graphs.eval_view(kind=kind, params=params, tuning=Tuning(), **options, **COMMON)


def faults(pipeline: Any) -> list[str]:
    """Build a graph, and return what DALI could not run."""
    pipeline._build_graph()
    made: dict[str, str] = {}
    found = [fault for operator in pipeline._ops for fault in _faults_of(operator, made)]
    assert len(pipeline._ops) > 10
    return found


def _faults_of(operator: Any, made: dict[str, str]) -> Iterator[str]:
    """Yield an operator's faults; `made` has the device of each output so far, and gets the operator's."""
    name, spec, device = _schema_name(operator), operator.spec, operator._op.device
    schema = backend.GetSchema(name)
    if name not in REGISTERED[device]:
        yield f"{name} is not registered for {device}"
    for number in range(spec.NumInput()):
        source, wanted_on = spec.InputName(number), spec.InputDevice(number)
        if source not in made:
            yield f"{name}: input {source} is not made before it"
        elif made[source] == "gpu" and wanted_on == "cpu":
            yield f"{name}: input {source} is wanted on the CPU and made on the GPU"
        if number >= spec.NumRegularInput():
            if wanted_on != "cpu" or made.get(source) != "cpu":
                yield f"{name}: argument input {source} must be on the CPU"
        elif device != "gpu" and wanted_on != "cpu":
            yield f"{name}: a {device} operator reads input {source} on the GPU"
    for number in range(spec.NumOutput()):
        if spec.OutputName(number) in made:
            yield f"{name}: output {spec.OutputName(number)} is made twice"
        made[spec.OutputName(number)] = spec.OutputDevice(number)
    known = set(schema.GetArgumentNames(include_hidden=True)) | OF_ALL
    values, tensors = _arguments(operator)
    for argument in values | tensors:
        if argument not in known:
            yield f"{name}: argument {argument} is unknown"
        elif argument not in OF_ALL and schema.IsDeprecatedArg(argument):
            yield f"{name}: argument {argument} is deprecated"
        elif argument in tensors and not schema.IsTensorArgument(argument):
            yield f"{name}: argument {argument} may be no tensor"


def _schema_name(operator: Any) -> str:
    names = (getattr(operator._op, "_schema_name", None), getattr(operator._op, "schema_name", None))
    return next(name for name in (*names, type(operator._op).__name__) if name and backend.TryGetSchema(name))


def _arguments(operator: Any) -> tuple[set[str], set[str]]:
    """Return the names of an operator's plain arguments, which only the repr of its spec has, and of its tensors."""
    values, section = set(), ""
    for line in repr(operator.spec).splitlines():
        if heading := re.fullmatch(r"  (\w[\w ]*):", line):
            section = heading[1]
        elif section.startswith("Arguments") and (entry := re.match(r"    (\w+): ", line)):
            values.add(entry[1])
    given = {**operator._op._init_args, **operator._op._call_args, **getattr(operator, "_arguments", {})}
    return values, {name for name, value in given.items() if isinstance(value, DataNode)}


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset(preset: str) -> None:
    assert faults(two_views(preset=PRESETS[preset])) == []


@pytest.mark.parametrize("kind", ["files", "encoded", "pixels"])
def test_every_kind_of_source(kind: str) -> None:
    assert faults(two_views(kind)) == []
    assert faults(eval_view(kind)) == []


@pytest.mark.parametrize("tuning", TUNINGS)
def test_every_tuning(tuning: str) -> None:
    assert faults(two_views(tuning=TUNINGS[tuning])) == []


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("kind", ["files", "encoded", "pixels"])
def test_graphs_that_end_after_the_resize(preset: str, kind: str) -> None:
    for tuning in TUNINGS.values():
        short = two_views(kind, PRESETS[preset], tuning, only_crops=True)
        assert faults(short) == []
        names = {_schema_name(operator) for operator in short._ops}
        assert "Resize" in names
        assert not names & {"GaussianBlur", "ColorSpaceConversion", "BrightnessContrast", "CropMirrorNormalize"}


def test_a_crop_is_two_operators_on_the_gpu() -> None:
    """A slice and a resize. docs/design.md has the counts of DALI 2.4."""
    whole, short = two_views(), two_views(only_crops=True)
    for pipeline in (whole, short):
        pipeline._build_graph()
    assert len(whole._ops) > 5 * len(short._ops)
    on_gpu = [_schema_name(operator) for operator in short._ops if operator._op.device == "gpu"]
    assert sorted(on_gpu) == ["Resize", "Resize", "Slice", "Slice"]


def test_other_channels_and_colors() -> None:
    assert faults(two_views(preset=PLAIN.changed(hue_space="yiq"))) == []
    assert faults(two_views(preset=PLAIN.changed(channels=1))) == []
    assert faults(eval_view(params=EvalParams(channels=1))) == []


@pytest.mark.parametrize("preset", [PRESETS["barlow_twins_overhead"].changed(channels=1, hue_space="yiq"), PLAIN, FIVE])
def test_views_in_float(preset: Preset) -> None:
    """No step is one of those that are for uint8 alone."""
    whole = two_views("pixels", preset, in_float=True)
    assert faults(whole) == []
    assert not {_schema_name(operator) for operator in whole._ops} & {"ColorSpaceConversion", "BrightnessContrast"}
    assert faults(eval_view("pixels", preset.eval_params(), in_float=True)) == []


@pytest.mark.parametrize(
    "deep",
    [
        Deep(Stored(np.dtype(np.uint16), (0, 1, 2)), ((0.0, 4095.0),) * 3),
        Deep(Stored(np.dtype(np.uint16), (4,)), ((0.0, 255.0),)),
        Deep(Stored(np.dtype(np.float32), (3, 2, 1)), ((-1.0, 1.0),) * 3),
    ],
)
def test_decoding_at_full_depth(deep: Deep) -> None:
    """It is on the CPU, because the values of the GPU's decoders have not been compared."""
    for pipeline in (two_views(in_float=True, deep=deep), eval_view(in_float=True, deep=deep)):
        assert faults(pipeline) == []
        (decoder,) = [operator for operator in pipeline._ops if "decoders__Image" in _schema_name(operator)]
        assert decoder._op.device == "cpu"


def test_a_planted_fault_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator that DALI has for the CPU alone, given to the GPU."""
    monkeypatch.setitem(REGISTERED, "gpu", REGISTERED["gpu"] - {"GaussianBlur"})
    assert "GaussianBlur is not registered for gpu" in faults(two_views())
