"""Imports run one way, stages never meet, and each library lives in one room: read off the source itself."""

from __future__ import annotations

from pathlib import Path

import floors
import pytest

import kronfx

ROOT = Path(kronfx.__file__).parent

# A module may import from its own room and from rooms of a lower level; rooms of one level never import each other.
LEVELS = {
    "errors": 0, "options": 1, "tables": 1, "files": 1, "progress": 2, "records": 2, "svg": 2,
    "cost": 3, "kron": 3, "price": 3, "distance": 3, "page": 3,
    "solver": 4, "layers": 4, "energy": 4,
    "clock": 5, "planner": 5, "graph": 5, "train": 5, "compress": 5, "deploy": 5,
    "report": 6, "api": 6, "trained": 6, "checkpoint": 6, "": 7, "cli": 7, "__main__": 8,
}  # fmt: skip
# The same inside the big stages, whose rooms are folders and the files beside them; "" is the stage's own ``__init__``.
# Where a new room goes: as low as what it reads allows. Another floor of deploy is one too many.
INSIDE = {
    "deploy": {
        "nodes": 0, "quiet": 0, "records": 0, "speakable": 1,
        "options": 1, "storage": 1, "opening": 1,
        "find": 2, "prove": 2, "read": 2, "rivals": 2,
        "lower": 3, "capture": 3, "places": 3, "write": 3, "source": 3,
        "choose": 4,
        "pipeline": 5, "forecast": 5,
        "export": 6, "sparsify": 6,
        "bench": 7, "": 7,
    },
    "train": {
        "options": 0, "state": 0, "unfactored": 0,
        "parts": 1,
        "course": 2,
        "penalties": 3, "optimizers": 3,
        "patterns": 4, "history": 4, "callbacks": 4,
        "callbacks_lightning": 5, "callbacks_transformers": 5, "": 5,
    },
}  # fmt: skip
HOMES = {
    "torch.fx": {"graph"},
    "onnx": {"deploy"},
    "onnx_ir": {"deploy"},
    "onnxruntime": {"deploy"},
    "onnxscript": {"deploy"},
    "transformers": {"train"},
    "lightning": {"train"},
    "scipy": {"planner", "clock"},
    "pydot": {"graph"},
    "fast_sugiyama": {"graph"},
    "networkx": {"page", "graph"},
    "vl_convert": {"page"},
}
NO_TORCH = {
    "errors", "options", "tables", "files", "svg", "records", "cost", "price", "page", "solver", "planner",
}  # fmt: skip


def room_of(path: str) -> str:
    """``kronfx/graph/fold.py -> graph``; the package's own ``__init__`` is ``""``."""
    return Path(path).with_suffix("").parts[0].removeprefix("__init__")


def violations(sources: dict[str, str]) -> list[str]:
    """What is wrong with a tree of ``{path below kronfx/: source}``."""
    wrong = []
    for path, source in sources.items():
        room = room_of(path)
        names = floors.imports(source)
        theirs = {name.split(".")[1] for name in names if name.startswith("kronfx.")} & set(LEVELS)
        wrong += [f"{path} imports {other}" for other in theirs - {room} if LEVELS[other] >= LEVELS[room]]
        for library, homes in HOMES.items():
            if room not in homes and any(name == library or name.startswith(f"{library}.") for name in names):
                wrong.append(f"{path} imports {library}")
        wrong += [f"{path} imports {name}, which names no room" for name in names if name.startswith(".")][:1]
        if room in NO_TORCH and any(name.split(".")[0] == "torch" for name in names):
            wrong.append(f"{path} imports torch")
    return wrong


def inside(stage: str, sources: dict[str, str]) -> list[str]:
    """What is wrong within a stage: rooms that read up or across, and modules that read each other in a circle."""
    modules, levels = floors.graph(sources, stage), INSIDE.get(stage)
    wrong = [f"{stage}: {' -> '.join(around)}" for around in [floors.circle(modules)] if around]
    for room, others in {} if levels is None else floors.rooms(modules).items():
        wrong += [f"{stage}/{room} imports {other}" for other in others if levels[other] >= levels[room]]
    return wrong


def tree() -> dict[str, str]:
    return floors.tree(ROOT)


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
        "train/near.py": "from .parts import part",
    }
    assert len(violations(broken)) == len(broken)
    assert violations({"graph/fold.py": "from torch import fx\nfrom kronfx.layers import x"}) == []


@pytest.mark.parametrize("stage", [name for name in LEVELS if (ROOT / name).is_dir() and name])
def test_imports_run_one_way_inside_a_stage(stage: str) -> None:
    assert inside(stage, tree()) == []


@pytest.mark.parametrize("stage", INSIDE)
def test_every_room_of_a_stage_has_its_floor(stage: str) -> None:
    """A room that is not built yet may have its floor already."""
    assert set(floors.rooms(floors.graph(tree(), stage))) <= set(INSIDE[stage])


def test_deploy_has_at_most_eight_floors() -> None:
    assert set(INSIDE["deploy"].values()) <= set(range(8))
    assert len(floors.chain(floors.rooms(floors.graph(tree(), "deploy")))) <= 8


def test_the_check_inside_a_stage_sees_what_is_broken_on_purpose() -> None:
    def after(path: str, line: str) -> list[str]:
        sources = tree()
        return inside(path.partition("/")[0], {**sources, path: f"{line}\n{sources.get(path, '')}"})

    up = after("deploy/nodes/values.py", "from kronfx.deploy.find.layers import Layer")
    assert "deploy/nodes imports find" in up
    across = after("train/optimizers/muon.py", "from kronfx.train.penalties import penalty")
    assert across == ["train/optimizers imports penalties"]
    late = after("train/parts/part.py", "def later():\n    import kronfx.train.course.loop")
    assert "train/parts imports course" in late
    within = after("train/course/survivors.py", "from kronfx.train.course import target")
    assert within == ["train: course.survivors -> course.target -> course.survivors"]
    typed = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from kronfx.train.course import target"
    assert after("train/course/survivors.py", typed) == []
    assert after("train/course/new.py", "from kronfx.train.parts import tensors") == []


def test_floors_are_the_longest_chain() -> None:
    sources = {
        "stage/__init__.py": "from kronfx.stage.door import open",
        "stage/door.py": "from kronfx.stage import cellar\nimport kronfx.stage.hall.stairs",
        "stage/hall/__init__.py": "",
        "stage/hall/stairs.py": "from kronfx.stage.hall import rail",
        "stage/hall/rail.py": "from kronfx.stage.cellar import box",
        "stage/cellar.py": "import torch",
        "other/door.py": "import kronfx.stage",
    }
    modules = floors.graph(sources, "stage")
    assert floors.chain(modules) == ["", "door", "hall.stairs", "hall.rail", "cellar"]
    assert floors.chain(floors.rooms(modules)) == ["", "door", "hall", "cellar"]
    circular = floors.graph({**sources, "stage/cellar.py": "import kronfx.stage.door"}, "stage")
    assert floors.circle(circular) == ["door", "cellar", "door"]
    assert [(x.rooms, x.modules, x.files, x.lines) for x in floors.stages(sources)] == [(1, 1, 1, 1), (4, 5, 6, 6)]


def test_files_stay_small() -> None:
    assert {path: len(source.splitlines()) for path, source in tree().items() if source.count("\n") > 320} == {}
