"""The external data of a file that another takes the place of: of no use once that is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, count
from pathlib import Path

from kronfx.deploy.opening.external import Folder
from kronfx.deploy.opening.protos import parsed, tensors
from kronfx.deploy.opening.values import is_external, nbytes
from kronfx.errors import ExportError, KronfxError

_ALIGNED = 2**16  # bytes: the coarsest that writers put tensors at


def data_of(path: Path) -> dict[Path, bool]:
    """The files that an ONNX file has its external data in, and whether its tensors are all that is in there: a file
    may name any other one beside it. None where it is not there, or no ONNX file."""
    ranges: dict[Path, set[tuple[int, int]]] = {}
    try:
        _, model = parsed(path, ExportError)
        folder = Folder(path)
        for tensor in filter(is_external, tensors(model)):
            told = {entry.key: entry.value for entry in tensor.external_data}
            start = int(told.get("offset", 0))
            ranges.setdefault(folder.place("", told["location"]), set()).add((start, start + nbytes(tensor)))
    except (KronfxError, KeyError, ValueError):  # nobody's business what that is
        return {}
    return {place: _is_covered(place, sorted(held)) for place, held in ranges.items() if place.is_file()}


def _is_covered(place: Path, ranges: Sequence[tuple[int, int]]) -> bool:
    """From the first byte to the last, but for what aligns the tensors."""
    end = 0
    for start, stop in ranges:
        if start > end + (_ALIGNED if end else 0):
            return False
        end = max(end, stop)
    return end == place.stat().st_size


def data_name(target: Path) -> str:
    """What the data of a new file is called, ``<name>.data`` or the next that is free: what lies there may belong to
    the file of that name, which stays whole until the new one takes its place, or to another one."""
    names = chain([f"{target.name}.data"], (f"{target.name}.{i}.data" for i in count(2)))
    return next(name for name in names if not target.with_name(name).exists())


def remove_unread(before: Mapping[Path, bool], target: Path) -> tuple[str, ...]:
    """Remove what was data of the file that ``target`` took the place of, and nothing else's; returns a note on each
    that went or stayed."""
    if not before:
        return ()
    read = {place: file for file in (*target.parent.glob("*.onnx"), target) for place in data_of(file)}
    gone = {place: is_whole for place, is_whole in before.items() if read.get(place) != target}
    return tuple(_removed(place, is_whole, read.get(place)) for place, is_whole in sorted(gone.items()))


def _removed(place: Path, is_whole: bool, reader: Path | None) -> str:
    name = f"{place.name}, the external data of the file that was here,"
    if reader is not None:
        return f"{name} stays: {reader.name} has its data there too"
    if not is_whole:
        return f"{name} stays: there is more in it"
    try:
        place.unlink()
    except OSError as refused:
        return f"{name} stays, though nothing needs it: {refused.strerror or refused}"
    return f"{name} is removed"
