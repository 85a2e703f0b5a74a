"""Weights that a file keeps sparse: values and where they stand, as ``sparse_initializer`` or in a ``Constant``.

Read dense, as a runtime reads them, so that all that follows knows one kind of weight; blocks are stored as ever.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx

from kronfx.deploy.nodes.values import Array
from kronfx.deploy.opening.protos import graphs, nodes, unreadable
from kronfx.deploy.opening.values import DataOf, put_aside, values_of

LARGEST = 2**31  # bytes of a dense weight: dims are but numbers, and a small file may say any


def densify(path: Path, model: onnx.ModelProto, taken: list[Array], data_of: DataOf) -> None:
    """Dense tensors in the place of sparse ones, their values among those ``taken`` out. Raises ExportError."""
    for graph in graphs(model):
        for sparse in graph.sparse_initializer:
            array = _dense(path, sparse, data_of)
            dense = graph.initializer.add(name=sparse.values.name, data_type=sparse.values.data_type)
            put_aside(dense, taken, array)
        graph.ClearField("sparse_initializer")
    for node in nodes(model):
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.name == "sparse_value" and attribute.HasField("sparse_tensor"):
                array = _dense(path, attribute.sparse_tensor, data_of)
                kind = attribute.sparse_tensor.values.data_type
                attribute.Clear()
                attribute.name, attribute.type = "value", onnx.AttributeProto.TENSOR
                attribute.t.data_type = kind
                put_aside(attribute.t, taken, array)


def _dense(path: Path, sparse: onnx.SparseTensorProto, data_of: DataOf) -> Array:
    """``dims``, zero but for ``values [nnz]`` at ``indices``: ``[nnz]`` in the flat array, or ``[nnz, rank]``."""
    name, dims = sparse.values.name, tuple(sparse.dims)
    values, indices = (values_of(path, part, data_of) for part in (sparse.values, sparse.indices))
    if values is None or indices is None or values.ndim != 1 or indices.dtype != np.int64 or min(dims, default=0) < 0:
        raise unreadable(str(path), f"in it is a sparse tensor {name!r} that is not values and their indices")
    if math.prod(dims) * values.itemsize > LARGEST:
        raise unreadable(str(path), f"in it is a sparse tensor {name!r} of dims {list(dims)}, over 2 GiB dense")
    shape = (len(values), len(dims)) if indices.ndim == 2 else values.shape
    sizes = np.array(dims if indices.ndim == 2 else math.prod(dims))
    if indices.shape != shape or (indices < 0).any() or (indices >= sizes).any():
        raise unreadable(str(path), f"in it is a sparse tensor {name!r} with entries outside its dims {list(dims)}")
    dense = np.zeros(dims, values.dtype)
    if indices.ndim == 2:
        dense[tuple(indices.T)] = values
    else:
        dense.reshape(-1)[indices] = values
    return dense
