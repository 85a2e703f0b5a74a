"""What a checkpoint holds, and the folder it lies in: written whole or not at all, read without trust."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from kronfx.errors import CheckpointError, PlanError
from kronfx.files import PathLike, write
from kronfx.records import KroneckerShape, Plan

PLAN, WEIGHTS = "plan.json", "model.safetensors"


@dataclass(frozen=True, slots=True)
class FoldedGrid:
    """The blocks of a folded ``W [m, n]``."""

    m: int
    n: int
    shape: KroneckerShape


@dataclass(frozen=True, slots=True)
class Saved:
    """What a checkpoint holds: ``tied`` maps a name to the name under which its tensor is stored."""

    plan: Plan
    grids: dict[str, FoldedGrid]
    tied: dict[str, str]
    tensors: dict[str, Tensor]

    def root(self, name: str) -> str:
        """The name under which a tensor is stored."""
        return self.tied.get(name, name)


def write_folder(target: Path, saved: Saved) -> None:
    """Both files, then the name ``target``. Raises CheckpointError where the system refuses."""
    grids = {name: asdict(grid.shape) | {"m": grid.m, "n": grid.n} for name, grid in saved.grids.items()}
    described = json.loads(saved.plan.to_json()) | {"folded": grids, "tied": saved.tied}
    with _replacing(target) as temporary:
        save_file(saved.tensors, temporary / WEIGHTS, metadata={"format": "pt"})
        _flush(temporary / WEIGHTS)
        write(temporary / PLAN, json.dumps(described, indent=1).encode(), CheckpointError)


def destination(folder: PathLike) -> Path:
    """Where the folder will lie, once it is sure that nothing but a checkpoint of ours can be lost there."""
    target = Path(folder).resolve()
    if target.exists() and not target.is_dir():
        raise _unwritable(target, "it is a file")
    if target.is_dir() and any(target.iterdir()):
        other = sorted({path.name for path in target.iterdir()} - {PLAN, WEIGHTS})
        if other:
            raise _unwritable(target, f"it holds other things ({few(other)})")
        _described(target)
    if not target.parent.is_dir():
        raise _unwritable(target, f"{target.parent} is no folder")
    if not os.access(target.parent, os.W_OK):
        raise _unwritable(target, "the folder around it is read-only")
    return target


@contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """A temporary folder that takes the name ``target`` if the body succeeds, and is gone if it does not."""
    temporary = target.with_name(f".{uuid4().hex}")
    try:
        temporary.mkdir()
        yield temporary
        _rename(temporary, target)
    except (OSError, SafetensorError, ValueError) as refused:
        raise _unwritable(target, str(refused)) from refused
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _rename(temporary: Path, target: Path) -> None:
    """No system renames onto a folder with files in it: the old one steps aside, and comes back on failure."""
    old = target.with_name(f".{uuid4().hex}")
    try:
        if target.exists():
            _take_modes(temporary, target)
            target.rename(old)
        temporary.rename(target)
    except BaseException:
        if old.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _take_modes(temporary: Path, target: Path) -> None:
    """Who could read the old checkpoint, and nobody else, can read the new one."""
    for file in temporary.iterdir():
        if (target / file.name).exists():
            shutil.copymode(target / file.name, file)
    shutil.copymode(target, temporary)


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def read_folder(folder: Path) -> Saved:
    """The whole checkpoint. Raises CheckpointError where it is none, or a damaged one."""
    if not folder.is_dir():
        found = f"{folder} is a file" if folder.exists() else f"there is no folder {folder}"
        raise CheckpointError("", found, "the folder that kronfx.save wrote", "check the path")
    plan, grids, tied = _described(folder)
    try:
        tensors = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise _damaged(folder / WEIGHTS, error) from error
    lost = {root for root in tied.values() if root not in tensors}
    if lost:
        raise _damaged(folder / WEIGHTS, f"it lacks {few(sorted(lost))}")
    return Saved(plan, grids, tied, tensors)


def _described(folder: Path) -> tuple[Plan, dict[str, FoldedGrid], dict[str, str]]:
    """What ``plan.json`` says: the plan, the grids of what is folded, the ties."""
    missing = [name for name in (PLAN, WEIGHTS) if not (folder / name).is_file()]
    if missing:
        found = f"{folder} is no checkpoint: it has no {' and no '.join(missing)}"
        raise CheckpointError("", found, "the folder that kronfx.save wrote", "check the path")
    try:
        text = (folder / PLAN).read_text()
        plan, data = Plan.from_json(text), json.loads(text)
        grids = {str(name): _grid(entry) for name, entry in data["folded"].items()}
        tied = {str(name): str(root) for name, root in data["tied"].items()}
    except PlanError as error:
        raise _damaged(folder / PLAN, error.found) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(folder / PLAN, f"{type(error).__name__}: {error}") from error
    return plan, grids, tied


def _grid(entry: dict[str, Any]) -> FoldedGrid:
    if not all(type(size) is int and size >= 1 for size in entry.values()):
        raise ValueError(f"a block grid {entry}")
    shape = KroneckerShape(**{name: size for name, size in entry.items() if name not in ("m", "n")})
    return FoldedGrid(entry["m"], entry["n"], shape)


def few(names: Iterable[str]) -> str:
    """The first names of many, for a sentence."""
    listed = list(names)
    more = f" and {len(listed) - 5} more" if len(listed) > 5 else ""
    return ", ".join(listed[:5]) + more


def _damaged(path: Path, why: object) -> CheckpointError:
    return CheckpointError("", f"{path} is damaged: {why}", "a file that kronfx.save wrote", "restore it from a copy")


def _unwritable(target: Path, why: str) -> CheckpointError:
    found = f"cannot write {target}: {why}"
    return CheckpointError("", found, "a new folder or a kronfx checkpoint to replace", "choose another path")
