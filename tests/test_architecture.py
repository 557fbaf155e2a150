"""Imports run one way, without circles, and import light where it matters."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

PACKAGES = ("bt_plugin", "dali_pipelines")
# From the top down. A room may import rooms of its own row and of the rows below it. docs/design.md draws it.
# A room is a folder, or a file next to the folders.
ROWS = [
    "bt_plugin bt_plugin.__main__ bt_plugin.api bt_plugin.cli bt_plugin.planning bt_plugin.tools",
    "bt_plugin.training bt_plugin.report",
    "bt_plugin.evaluation bt_plugin.formats bt_plugin.integrations",
    "bt_plugin.checkpoints bt_plugin.monitoring bt_plugin.weights",
    "bt_plugin.data bt_plugin.loss bt_plugin.runs",
    "bt_plugin.models bt_plugin.optim bt_plugin.runtime",
    "bt_plugin.config",
    "dali_pipelines dali_pipelines.loaders dali_pipelines.eval_loader dali_pipelines.streams",
    "dali_pipelines.dali dali_pipelines.gpu dali_pipelines.native dali_pipelines.pil",
    "dali_pipelines.backend dali_pipelines.decoding dali_pipelines.depth dali_pipelines.memory dali_pipelines.plans",
    "dali_pipelines.orders dali_pipelines.ranks dali_pipelines.shards dali_pipelines.sources dali_pipelines.views",
    "bt_plugin.errors bt_plugin.version dali_pipelines.errors dali_pipelines.regular_files dali_pipelines.storage",
]
_ROW_OF = {room: number for number, row in enumerate(ROWS) for room in row.split()}
# What may name torch.distributed or a part of it.
COLLECTIVES = {
    "bt_plugin.runtime.collectives",  # all collectives
    "bt_plugin.cli.launch",  # torch.distributed.elastic, which stops the ranks
    "bt_plugin.checkpoints.reader",  # torch.distributed.checkpoint
    "bt_plugin.checkpoints.state",
    "bt_plugin.checkpoints.writer",
    "bt_plugin.planning.fake_ranks",  # a group of ranks that do not exist
    "bt_plugin.optim.tensors",  # torch.distributed.tensor, for norms of shards
    "dali_pipelines.ranks",  # rank and world size
}


def modules(root: Path) -> dict[str, Path]:
    names = {}
    for file in (file for package in PACKAGES for file in (root / package).rglob("*.py")):
        parts = file.relative_to(root).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return names


def imports(file: Path) -> set[str]:
    """Everything that a file imports, at its top, later, or for types alone."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


def arrows(root: Path) -> dict[str, set[str]]:
    """Return each module with the modules that it imports. A module counts, the packages around it do not."""
    known = modules(root)
    found = {}
    for name, file in known.items():
        imported = imports(file) & set(known) - {name}
        found[name] = {one for one in imported if not any(other.startswith(one + ".") for other in imported)}
    return found


def room(module: str) -> str:
    return ".".join(module.split(".")[:2])


def violations(root: Path) -> list[str]:
    found = []
    for name, imported in arrows(root).items():
        for one in imported:
            for module in (name, one):
                assert room(module) in _ROW_OF, f"{module} is in no room; give it one here and in docs/design.md"
            if _ROW_OF[room(name)] > _ROW_OF[room(one)]:
                found.append(f"{name} imports {one}, which is above it")
    return found


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Return the groups of names that import each other."""
    below: dict[str, set[str]] = {}
    for name in graph:
        reached, waiting = set(), [name]
        while waiting:
            for one in graph.get(waiting.pop(), ()):
                if one not in reached:
                    reached.add(one)
                    waiting.append(one)
        below[name] = reached
    groups = [{one for one in below[name] if name in below.get(one, ())} for name in graph if name in below[name]]
    return [group for number, group in enumerate(groups) if group not in groups[:number]]


def rooms(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return the same graph between rooms."""
    found: dict[str, set[str]] = {}
    for name, imported in graph.items():
        found.setdefault(room(name), set()).update({room(one) for one in imported} - {room(name)})
    return found


def test_imports_run_one_way() -> None:
    assert len(modules(REPOSITORY)) > 100
    assert len(ROWS) <= 12
    assert violations(REPOSITORY) == []


def test_there_are_no_circles() -> None:
    graph = arrows(REPOSITORY)
    assert circles(graph) == []
    assert circles(rooms(graph)) == []


@pytest.mark.parametrize(
    ("file", "line", "upwards", "circles_of_modules", "circles_of_rooms"),
    [
        ("dali_pipelines/shards.py", "from bt_plugin.loss.barlow_twins import EPS", 1, 0, 0),
        ("dali_pipelines/plans.py", "from dali_pipelines.streams import view_stream", 1, 1, 1),
        ("bt_plugin/loss/barlow_twins.py", "def later(): from bt_plugin.training.pretrain import pretrain", 1, 1, 1),
        ("bt_plugin/config/recipe.py", "import bt_plugin.runs.directory", 1, 1, 1),
        ("bt_plugin/runs/atomic_file.py", "import bt_plugin.data.demo_data", 0, 1, 1),
        ("bt_plugin/loss/cost_model.py", "from bt_plugin.loss import barlow_twins", 0, 1, 0),
    ],
)
def test_a_planted_violation_is_found(
    tmp_path: Path, file: str, line: str, upwards: int, circles_of_modules: int, circles_of_rooms: int
) -> None:
    for source in modules(REPOSITORY).values():
        target = tmp_path / source.relative_to(REPOSITORY)
        target.parent.mkdir(parents=True, exist_ok=True)
        planted = f"\n{line}\n" if source == REPOSITORY / file else ""
        target.write_text(source.read_text() + planted)
    graph = arrows(tmp_path)
    found = len(violations(tmp_path)), len(circles(graph)), len(circles(rooms(graph)))
    assert found == (upwards, circles_of_modules, circles_of_rooms)


def test_few_files_name_torch_distributed() -> None:
    named = {
        name
        for name, file in modules(REPOSITORY).items()
        if any(f"{one}.".startswith("torch.distributed.") for one in imports(file))
    }
    assert named == COLLECTIVES


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_there(package: str) -> None:
    program = (
        f"import {package} as p; assert set(p.__all__) <= set(dir(p));"
        "assert set(p._MODULES) == set(p.__all__) - {'__version__'};"
        "[getattr(p, name) for name in p.__all__]; p.nothing"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert f"module '{package}' has no attribute 'nothing'" in result.stderr


def test_importing_the_packages_is_light() -> None:
    program = (
        "import sys, bt_plugin, dali_pipelines, bt_plugin.config.recipe_file, bt_plugin.cli;"
        "print({'torch', 'nvidia.dali', 'lightly', 'lightning', 'pytorch_lightning'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_nothing_under_the_agpl_is_imported_unasked() -> None:
    pytest.importorskip("nvidia.dali")
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
