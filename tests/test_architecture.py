"""Imports run one way, and import light where it matters."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

# Who may import whom, from the top down: a module imports its own layer's packages and those below.
# docs/design.md draws it.
LAYERS = [
    {"bt_plugin.__main__"},
    {"bt_plugin.cli", "bt_plugin.integrations"},
    {
        "bt_plugin.train",
        "bt_plugin.bench",
        "bt_plugin.formats",
        "bt_plugin.preview",
        "bt_plugin.doctor",
        "bt_plugin.report",
    },
    {"bt_plugin.training", "bt_plugin.throughput", "bt_plugin.model_check"},
    {"bt_plugin.evaluate"},
    {"bt_plugin.export", "bt_plugin.resume"},
    {"bt_plugin.build", "bt_plugin.accelerator"},
    {"bt_plugin.checkpoint_writer", "bt_plugin.journal"},
    {"bt_plugin.figures"},
    {"bt_plugin.snapshot", "bt_plugin.shown", "bt_plugin.progress"},
    {"bt_plugin.checkpoint", "bt_plugin.monitor", "bt_plugin.state", "bt_plugin.trackers", "bt_plugin.weights"},
    {"bt_plugin.checkpoints"},
    {"bt_plugin.rundir"},
    {"bt_plugin.recipe_file"},
    {"bt_plugin.shipped"},
    {"bt_plugin.recipe", "bt_plugin.yaml12"},
    {"bt_plugin.accumulate"},
    {"bt_plugin.method", "bt_plugin.backbones", "bt_plugin.optim", "bt_plugin.loss"},
    {"bt_plugin.transform", "bt_plugin.demo_data", "bt_plugin.nonfinite", "bt_plugin.preemption", "bt_plugin.collapse"},
    {"bt_plugin.layout", "bt_plugin.stem"},
    {"bt_plugin.loss_cost"},
    {"bt_plugin.distributed", "bt_plugin.tensors", "bt_plugin.fetched", "bt_plugin.versions"},
    {"bt_plugin.runs"},
    {"bt_plugin.backbone_names", "bt_plugin.launch_environment", "bt_plugin.terminal"},
    {"bt_plugin.errors", "bt_plugin"},
]


def modules(root: Path) -> dict[str, Path]:
    files = [file for package in ("bt_plugin", "dali_pipelines") for file in (root / package).rglob("*.py")]
    names = {}
    for file in files:
        parts = file.relative_to(root).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return names


def imports(file: Path) -> set[str]:
    """Everything that a file imports of the two packages, at its top or later, but not for types alone."""
    tree = ast.parse(file.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


def layer(name: str) -> int | None:
    """Where a module stands; the most specific entry counts."""
    fits = [(len(entry), index) for index, names in enumerate(LAYERS) for entry in names if covers(entry, name)]
    return max(fits)[1] if fits else None


def covers(entry: str, name: str) -> bool:
    return name == entry or (name.startswith(entry + ".") and entry != "bt_plugin")


def violations(root: Path) -> list[str]:
    known = modules(root)
    found = []
    for name, file in known.items():
        for imported in imports(file) & set(known):
            if name.startswith("dali_pipelines"):
                if imported.startswith("bt_plugin"):
                    found.append(f"{name} imports {imported}")
            elif imported.startswith("bt_plugin"):
                above, below = layer(name), layer(imported)
                assert above is not None, f"{name} has no layer; give it one here and in docs/design.md"
                assert below is not None, f"{imported} has no layer; give it one here and in docs/design.md"
                same_package = name.rpartition(".")[0] == imported.rpartition(".")[0] != "bt_plugin"
                inside = covers(imported, name) or covers(name, imported) or same_package
                if above >= below and not inside:
                    found.append(f"{name} imports {imported}")
    return found


def test_imports_run_one_way() -> None:
    assert len(modules(REPOSITORY)) > 25
    assert violations(REPOSITORY) == []


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("dali_pipelines/shards.py", "from bt_plugin.loss import EPS"),
        ("bt_plugin/loss.py", "from bt_plugin.train import pretrain"),
        ("bt_plugin/recipe.py", "import bt_plugin.rundir"),
    ],
)
def test_a_planted_violation_is_found(tmp_path: Path, file: str, line: str) -> None:
    for name, source in modules(REPOSITORY).items():
        target = tmp_path / source.relative_to(REPOSITORY)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(source.read_text() + (f"\n{line}\n" if str(target).endswith(file) else ""))
        assert name
    assert len(violations(tmp_path)) == 1


def test_one_file_names_torch_distributed() -> None:
    named = [
        name
        for name, file in modules(REPOSITORY).items()
        if name.startswith("bt_plugin") and {"torch.distributed", "torch.distributed.nn"} & imports(file)
    ]
    assert named == ["bt_plugin.distributed"]


@pytest.mark.parametrize("package", ["bt_plugin", "dali_pipelines"])
def test_every_public_name_is_there(package: str) -> None:
    program = f"import {package} as p; [getattr(p, name) for name in p.__all__]; p.nothing"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert f"module '{package}' has no attribute 'nothing'" in result.stderr


def test_importing_the_packages_is_light() -> None:
    program = (
        "import sys, bt_plugin, dali_pipelines;"
        "print({'torch', 'nvidia.dali', 'lightly', 'lightning', 'pytorch_lightning'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_nothing_under_the_agpl_is_imported_unasked() -> None:
    program = (
        "import pkgutil, sys, importlib, bt_plugin, dali_pipelines;"
        "names = [module.name for package in (bt_plugin, dali_pipelines)"
        " for module in pkgutil.walk_packages(package.__path__, package.__name__ + '.')];"
        "asked = {f'bt_plugin.integrations.lightly_train_{name}' for name in ('method', 'loader')};"
        "[importlib.import_module(name) for name in names if name not in asked | {'bt_plugin.__main__'}];"
        "bt_plugin.register;"
        "print('lightly_train' in sys.modules, len(asked & set(names)))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.stdout.strip() == "False 2", result.stderr
