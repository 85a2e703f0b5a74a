"""A file is written whole or not at all: a temporary name next to it, then a rename."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from kronfx.errors import KronfxError

PathLike = str | os.PathLike[str]


def destination(path: PathLike, error: type[KronfxError]) -> Path:
    """``path``, links resolved, once it is sure that a file can lie there. Raises ``error`` otherwise."""
    if not isinstance(path, (str, os.PathLike)):
        raise unwritable(repr(path), "it is no path", error)
    target = Path(path).resolve()
    if target.is_dir():
        raise unwritable(path, "it is a folder", error)
    if not target.parent.is_dir():
        why = f"{target.parent} is no folder" if target.parent.exists() else "its folder is missing"
        raise unwritable(path, why, error)
    if not os.access(target.parent, os.W_OK):
        raise unwritable(path, "its folder is read-only", error)
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
            raise unwritable(target, refused.strerror or str(refused), error) from refused
        yield temporary
        try:
            temporary.replace(target)
        except OSError as refused:
            raise unwritable(target, refused.strerror or str(refused), error) from refused
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def staged(target: Path, error: type[KronfxError]) -> Iterator[Path]:
    """A path of ``target``'s name in a temporary folder next to it; the body writes it, and files beside it.

    If the body succeeds, all files of that folder move to where ``target`` lies, ``target`` itself last. On any
    failure, an interrupt included, the folder is removed and what was there is as before. Raises ``error`` where the
    system refuses (no space, no permission).
    """
    folder = target.with_name(f".{uuid4().hex}")
    try:
        try:
            folder.mkdir()
        except OSError as refused:
            raise unwritable(target, refused.strerror or str(refused), error) from refused
        yield folder / target.name
        try:
            for file in sorted(folder.iterdir(), key=lambda file: file.name == target.name):
                with file.open("rb+") as written:
                    os.fsync(written.fileno())
                file.replace(target.with_name(file.name))
        except OSError as refused:
            raise unwritable(target, refused.strerror or str(refused), error) from refused
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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


def unwritable(path: PathLike, why: str, error: type[KronfxError]) -> KronfxError:
    """The sentence of a file that cannot be written."""
    found = f"cannot write {os.fspath(path)}: {why}"
    return error("", found, "a path in a folder that can be written and has room", "choose another path")
