"""Constants of a graph as arrays, and what their values are used for."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from kronfx.errors import ExportError

Array = np.ndarray[Any, Any]
Content = tuple[tuple[int, ...], bytes]


def tensor_of(value: ir.Value) -> ir.TensorProtocol:
    """The constant of an initializer; the exporter leaves none without. Raises ExportError."""
    if value.const_value is None:
        found = "an initializer that holds no value"
        raise ExportError(value.name or "", found, "a constant", "export the model anew")
    return value.const_value


def shape_of(value: ir.Value) -> ir.Shape:
    """The shape that the graph tells of a value. Raises ExportError where it tells none."""
    if value.shape is None:
        remedy = "run onnx.shape_inference on the file first, or sparsify it with lowering='dense'"
        raise ExportError(value.name or "", "a value of unknown shape", "one whose axes the graph tells", remedy)
    return value.shape


def array_of(x: Tensor) -> Array:
    """The values of a tensor, in the type a file has them."""
    exact = x.detach().cpu()
    array: Array = ir.tensor(exact).numpy() if exact.dtype == torch.bfloat16 else exact.numpy()
    return array


def content(array: Array) -> Content:
    """What tells arrays apart: the shape and a digest of the bytes."""
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)  # bfloat16 has no buffer of its own
    return array.shape, hashlib.blake2b(flat.data, digest_size=16).digest()


def smallest(largest: int) -> type[np.integer[Any]]:
    """The narrowest integer type that all runtimes cast from and that holds ``0 .. largest``."""
    return np.uint8 if largest < 2**8 else np.uint16 if largest < 2**16 else np.int32


def is_constant(value: ir.Value) -> bool:
    """True for an initializer that no caller can replace."""
    return value.const_value is not None and value.is_initializer() and not value.is_graph_input()


def only_user(value: ir.Value, op_type: str) -> ir.Node | None:
    """The node of that kind that reads ``value``, where nobody else does."""
    users = list(value.consumers())
    fits = len(users) == 1 and users[0].op_type == op_type and not value.is_graph_output()
    return users[0] if fits else None
