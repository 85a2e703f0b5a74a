"""Imports run one way, stages never meet, and each library lives in one room: read off the source itself."""

from __future__ import annotations

import ast
from pathlib import Path

import kronfx

ROOT = Path(kronfx.__file__).parent

# A module may import from its own room and from rooms of a lower level; rooms of one level never import each other.
LEVELS = {
    "errors": 0, "options": 1, "tables": 1, "files": 1, "records": 2, "svg": 2, "cost": 3, "kron": 3,
    "solver": 4, "layers": 4, "energy": 4, "calibrate": 4,
    "planner": 5, "graph": 5, "train": 5, "deploy": 5, "report": 6, "api": 6, "checkpoint": 6, "": 7,
}  # fmt: skip
HOMES = {
    "torch.fx": {"graph"},
    "onnx": {"deploy"},
    "onnx_ir": {"deploy"},
    "onnxruntime": {"deploy"},
    "onnxscript": {"deploy"},
    "transformers": {"train"},
    "lightning": {"train"},
    "scipy": {"planner", "calibrate"},
}
NO_TORCH = {"errors", "options", "tables", "files", "svg", "records", "cost", "solver", "planner"}


def room_of(path: str) -> str:
    """``kronfx/graph/fold.py -> graph``; the package's own ``__init__`` is ``""``."""
    return Path(path).with_suffix("").parts[0].removeprefix("__init__")


def imports(source: str) -> set[str]:
    """Every module a source imports, ``from torch import fx`` as ``torch.fx``."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def violations(sources: dict[str, str]) -> list[str]:
    """What is wrong with a tree of ``{path below kronfx/: source}``."""
    wrong = []
    for path, source in sources.items():
        room = room_of(path)
        names = imports(source)
        theirs = {name.split(".")[1] for name in names if name.startswith("kronfx.")} & set(LEVELS)
        wrong += [f"{path} imports {other}" for other in theirs - {room} if LEVELS[other] >= LEVELS[room]]
        for library, homes in HOMES.items():
            if room not in homes and any(name == library or name.startswith(f"{library}.") for name in names):
                wrong.append(f"{path} imports {library}")
        if room in NO_TORCH and any(name.split(".")[0] == "torch" for name in names):
            wrong.append(f"{path} imports torch")
    return wrong


def tree() -> dict[str, str]:
    return {str(path.relative_to(ROOT)): path.read_text() for path in ROOT.rglob("*.py")}


def test_every_file_is_in_a_known_room() -> None:
    assert {room_of(path) for path in tree()} <= set(LEVELS)


def test_imports_run_one_way() -> None:
    assert violations(tree()) == []


def test_the_check_sees_what_is_broken_on_purpose() -> None:
    broken = {
        "planner.py": "from kronfx.graph import discover",
        "train/late.py": "import kronfx.deploy.export",
        "errors.py": "from kronfx import records",
        "layers.py": "from torch import fx",
        "report/peek.py": "import onnx",
        "solver.py": "import torch.nn",
    }
    assert len(violations(broken)) == len(broken)
    assert violations({"graph/fold.py": "from torch import fx\nfrom kronfx.layers import x"}) == []


def test_files_stay_small() -> None:
    assert {path: len(source.splitlines()) for path, source in tree().items() if source.count("\n") > 320} == {}
