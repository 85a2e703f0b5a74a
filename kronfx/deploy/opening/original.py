"""A source as it is on disk: what the new file is measured against, and stays behind where that gains nothing."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import onnx

from kronfx.deploy.opening.external import Folder
from kronfx.deploy.opening.protos import PROTOBUF_LIMIT, parsed, tensors
from kronfx.deploy.opening.replaced import data_name
from kronfx.deploy.opening.values import embed, is_external, nbytes
from kronfx.errors import ExportError


@dataclass(frozen=True, slots=True)
class Original:
    """An ONNX file and the files of its external ``data``; ``bytes`` is the size of all of them."""

    path: Path
    bytes: int
    data: tuple[Path, ...] = ()

    def copy(self, path: Path, target: Path, limit: int = PROTOBUF_LIMIT) -> int:
        """Write it to ``path``, for ``target``, byte by byte; external data goes into it, or, where one file cannot
        hold it, beside it. Returns bytes."""
        if not self.data:
            shutil.copyfile(self.path, path)
            return path.stat().st_size
        model, folder = self._opened()
        outside = [tensor for tensor in tensors(model) if is_external(tensor)]
        if sum(map(nbytes, outside)) <= limit - 2**24:  # 16 MiB for everything else
            path.write_bytes(_embedded(model, folder).SerializeToString())
            return path.stat().st_size
        data = path.with_name(data_name(target))
        with data.open("wb") as file:
            for tensor in outside:
                held, offset = folder.bytes_of(tensor), file.tell()
                tensor.ClearField("external_data")
                for key, value in (("location", data.name), ("offset", offset), ("length", len(held))):
                    tensor.external_data.add(key=key, value=str(value))
                held.tofile(file)
        path.write_bytes(model.SerializeToString())
        return path.stat().st_size + data.stat().st_size

    def in_one(self) -> onnx.ModelProto:
        """The whole of it as one message."""
        return _embedded(*self._opened())

    def _opened(self) -> tuple[onnx.ModelProto, Folder]:
        path, model = parsed(self.path, ExportError)
        return model, Folder(path)


def _embedded(model: onnx.ModelProto, folder: Folder) -> onnx.ModelProto:
    for tensor in tensors(model):
        if is_external(tensor):
            embed(tensor, folder.bytes_of(tensor))
    return model
