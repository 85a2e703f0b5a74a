"""A file is written whole or not at all: a temporary name next to it, then a rename."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from kronfx.errors import KronfxError

PathLike = str | os.PathLike[str]


def destination(path: PathLike, error: type[KronfxError]) -> Path:
    """``path``, links resolved, once it is sure that a file can lie there. Raises ``error`` otherwise."""
    target = Path(path).resolve()
    if target.is_dir():
        raise _unwritable(path, "it is a folder", error)
    if not target.parent.is_dir():
        why = f"{target.parent} is no folder" if target.parent.exists() else "its folder is missing"
        raise _unwritable(path, why, error)
    if not os.access(target.parent, os.W_OK):
        raise _unwritable(path, "its folder is read-only", error)
    return target


@contextmanager
def replacing(target: Path, content: bytes, error: type[KronfxError]) -> Iterator[Path]:
    """Write ``content`` under a temporary name next to ``target``; it takes that name if the body succeeds.

    On any failure, an interrupt included, the temporary is removed and what was at ``target`` is as before. Raises
    ``error`` where the system refuses (no space, no permission).
    """
    temporary = target.with_name(f".{uuid4().hex}{target.suffix}")
    try:
        try:
            _write(temporary, content)
        except OSError as refused:
            raise _unwritable(target, refused.strerror or str(refused), error) from refused
        yield temporary
        try:
            temporary.replace(target)
        except OSError as refused:
            raise _unwritable(target, refused.strerror or str(refused), error) from refused
    finally:
        temporary.unlink(missing_ok=True)


def write(path: PathLike, content: bytes, error: type[KronfxError]) -> Path:
    """Write a file; returns its path. Raises ``error``."""
    target = destination(path, error)
    with replacing(target, content, error):
        return target


def _write(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _unwritable(path: PathLike, why: str, error: type[KronfxError]) -> KronfxError:
    found = f"cannot write {os.fspath(path)}: {why}"
    return error("", found, "a path in a folder that can be written and has room", "choose another path")
