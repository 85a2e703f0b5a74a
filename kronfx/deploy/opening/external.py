"""External data: read from below the folder of the model and from nowhere else, mapped and never copied.

A file says of a tensor that its bytes lie in another file, and where there. Whoever wrote it may have meant a file that
is none of its business: what is read from there could end up in a new file that is handed on. So a location is taken
from the folder in which the model is named, all links are followed, and where that leads has to be below that folder
or below the one in which the model itself lies, once its links are followed: in a cache that links models to a
store, it and its data lie in the store. Absolute paths and ``..`` are refused as such, as ONNX demands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import onnx

from kronfx.deploy.opening.values import Bytes, nbytes
from kronfx.errors import ExportError


@dataclass(frozen=True, slots=True)
class Folder:
    """The files beside a ``model``; each is mapped once."""

    model: Path
    _mapped: dict[Path, Bytes] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, model: Path, tensors: Sequence[onnx.TensorProto]) -> Folder:
        """That of a model, or, where it is a link and its data lies beside the real file only, of that one."""
        places = {entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"}
        beside = cls(model)
        is_link = model.is_symlink() and not any(beside.place("", place).exists() for place in places)
        return cls(model.resolve()) if is_link else beside

    def bytes_of(self, tensor: onnx.TensorProto) -> Bytes:
        """What an external tensor holds, without a copy. Raises ExportError where it is not there, or not here."""
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        size = nbytes(tensor)
        try:
            if len(entries) < len(tensor.external_data):  # readers differ in which of two they believe
                raise self._unreadable(tensor, "it is said twice where that is")
            offset, length = int(entries.get("offset", 0)), int(entries.get("length", 0)) or size
        except ValueError:
            raise self._unreadable(tensor, "its offset or its length is no number") from None
        if offset < 0 or length != size:
            raise self._unreadable(tensor, f"{length} bytes from {offset} on, where {size} make it up")
        place = self.place(tensor.name, location)
        if not size:
            return np.zeros(0, np.uint8)
        data = self._data(tensor, place)
        if offset + size > len(data):
            raise self._unreadable(tensor, f"{location} has {len(data):,} bytes, and it ends at {offset + size:,}")
        return data[offset : offset + size]

    def place(self, name: str, location: str) -> Path:
        """Where a location leads. Raises ExportError where that is outside."""
        spellings = PurePosixPath(location), PureWindowsPath(location)
        leads_out = any(spelt.anchor or ".." in spelt.parts for spelt in spellings)
        try:
            found = (self.model.parent / location).resolve()
            homes = self.model.parent.resolve(), self.model.resolve().parent
        except (OSError, RuntimeError, ValueError):  # a circle of links, a NUL
            leads_out = True
        if leads_out or not any(found.is_relative_to(home) for home in homes):
            problem = f"its external data {location!r} for {name!r} is outside the folder of the model"
            raise ExportError(str(self.model), problem, "data below that folder", "do not open files of this origin")
        return found

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that were read."""
        return tuple(self._mapped)

    @property
    def bytes(self) -> int:
        """Their size."""
        return sum(map(len, self._mapped.values()))

    def _data(self, tensor: onnx.TensorProto, path: Path) -> Bytes:
        if path not in self._mapped:
            try:
                if not path.is_file():
                    raise self._unreadable(tensor, f"{path.name} is {'no file' if path.exists() else 'missing'}")
                empty = path.stat().st_size == 0
                self._mapped[path] = np.zeros(0, np.uint8) if empty else np.memmap(path, np.uint8, "r")
            except OSError as refused:
                raise self._unreadable(tensor, refused.strerror or str(refused)) from None
        return self._mapped[path]

    def _unreadable(self, tensor: onnx.TensorProto, why: str) -> ExportError:
        found = f"its external data for {tensor.name!r} cannot be read: {why}"
        return ExportError(str(self.model), found, "the model with all its data", "copy its data files beside it")
