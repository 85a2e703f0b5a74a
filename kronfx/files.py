"""A file is written whole or not at all: in a hidden folder next to its place, then a rename."""

from __future__ import annotations

import os
import shutil
import stat
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
    try:
        target = Path(path).resolve()
        folder_is_there = target.parent.is_dir()
    except (OSError, RuntimeError, TypeError, ValueError) as refused:  # a circle of links, a NUL, bytes
        raise unwritable(repr(path), str(refused), error) from None
    if target.is_dir():
        raise unwritable(path, "it is a folder", error)
    if target.exists() and not target.is_file():
        raise unwritable(path, "it is no regular file", error)
    if not folder_is_there:
        why = f"{target.parent} is no folder" if target.parent.exists() else "its folder is missing"
        raise unwritable(path, why, error)
    if not os.access(target.parent, os.W_OK):
        raise unwritable(path, "its folder is read-only", error)
    return target


@contextmanager
def staged(target: Path, error: type[KronfxError]) -> Iterator[Path]:
    """A path of ``target``'s name in a temporary folder next to it; the body writes it, and files beside it.

    If the body succeeds, all files of that folder move to where ``target`` lies, ``target`` itself last. A file that
    takes the place of another has its permissions, and so has a new one beside it; else those that the umask leaves.
    Until it moves, nobody else can read it. On any failure, an interrupt included, the folder is removed and what was
    there is as before. Raises ``error`` where the system refuses (no space, no permission).
    """
    folder = target.with_name(f".{uuid4().hex}")
    try:
        try:
            folder.mkdir(mode=0o700)
            fresh = _fresh_mode(folder)
        except OSError as refused:
            raise unwritable(target, refused.strerror or str(refused), error) from refused
        yield folder / target.name
        try:
            for file in sorted(folder.iterdir(), key=lambda file: file.name == target.name):
                place = target.with_name(file.name)
                with file.open("rb+") as written:
                    os.fsync(written.fileno())
                file.chmod(fresh)
                like = place if place.exists() else target
                if like.exists():
                    shutil.copymode(like, file)
                file.replace(place)
        except OSError as refused:
            raise unwritable(target, refused.strerror or str(refused), error) from refused
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write(path: PathLike, content: bytes, error: type[KronfxError]) -> Path:
    """Write a file; returns its path. Raises ``error``."""
    target = destination(path, error)
    with staged(target, error) as temporary:
        try:
            temporary.write_bytes(content)
        except OSError as refused:
            raise unwritable(target, refused.strerror or str(refused), error) from refused
    return target


def _fresh_mode(folder: Path) -> int:
    """The permissions of a new file: asked of the system, for to read the umask is to change it for all threads."""
    probe = folder / "probe"
    probe.touch()
    mode = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    return mode


def unwritable(path: PathLike, why: str, error: type[KronfxError]) -> KronfxError:
    """The sentence of a file that cannot be written."""
    found = f"cannot write {os.fspath(path)}: {why}"
    return error("", found, "a path in a folder that can be written and has room", "choose another path")
