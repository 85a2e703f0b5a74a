"""Products with weights of 2, 4 or 8 bits, as onnxruntime's ``MatMulNBits`` packs them.

``W [m, n]`` is cut along ``n`` into runs of ``size`` entries. A run is a blob of ``size * bits / 8`` bytes, with a
scale and, where it is not the middle ``2^(bits - 1)``, a zero point: ``W = scale * (q - zero)``. A run that is zero
needs no bytes of its own: with a scale of zero, any will do (what that costs: ``kronfx/decisions/four_bits.md``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import onnx_ir as ir

from kronfx.deploy.find.grid import grid_of
from kronfx.deploy.nodes.values import Array, is_constant, tensor_of
from kronfx.deploy.storage import Storage, Survivors, fewest_bytes
from kronfx.deploy.storage import survivors as survivors_of
from kronfx.records import KroneckerShape

_REPEATED = {2: 0x55, 4: 0x11, 8: 0x01}  # times an entry of so many bits: a byte that is full of it


@dataclass(frozen=True)
class Packed:
    """``y = x W^T + bias`` with ``W [m, n]`` in ``weight [m, runs, bytes]`` and ``scales``, one a run.

    ``zeros`` are the zero points, packed like the entries; None where all are in the middle.
    """

    site: str
    node: ir.Node
    y: ir.Value
    weight: ir.Value
    scales: ir.Value
    zeros: ir.Value | None
    bias: ir.Value | None
    dims: tuple[int, int]
    size: int
    bits: int

    @cached_property
    def alive(self) -> Array:
        """``[m, runs]``: whether a run has an entry that is not zero."""
        blobs, scales = tensor_of(self.weight).numpy(), self._scales
        middle = self._middle
        constant = (blobs == (middle * _REPEATED[self.bits])[:, :, None]).all(axis=2)
        alive: Array = ~np.isfinite(scales) | (scales != 0) & ~constant
        return alive

    @cached_property
    def survivors(self) -> tuple[Survivors, Survivors]:
        """What survives of the blobs, as a matrix ``[m, runs * bytes]``, and of the scales ``[m, runs]``."""
        blobs, scales = tensor_of(self.weight).numpy() * self.alive[:, :, None], self._scales * self.alive
        m, runs, width = blobs.shape
        grid = grid_of(np.repeat(self.alive, width, axis=1))
        across = max(1, grid.n2 // width) if runs % max(1, grid.n2 // width) == 0 else 1
        of_scales = KroneckerShape(grid.m1, runs // across, grid.m2, across)
        of_blobs = replace(of_scales, n2=across * width)
        return survivors_of(blobs.reshape(m, -1), of_blobs), survivors_of(scales, of_scales)

    @cached_property
    def storage(self) -> tuple[Storage, Storage] | None:
        """How a file keeps blobs and scales; None where as they are."""
        return self.survivors if all(fewest_bytes(part, None) is not None for part in self.survivors) else None

    @property
    def block(self) -> tuple[int, int]:
        """``(m2, n2)`` of ``W``."""
        shape = self.survivors[1].shape
        return shape.m2, shape.n2 * self.size

    @property
    def dense_bytes(self) -> int:
        """Size of blobs and scales as they are in the source."""
        return tensor_of(self.weight).nbytes + tensor_of(self.scales).nbytes

    @property
    def bytes(self) -> int:
        """Size of what is stored of them."""
        return self.dense_bytes if self.storage is None else sum(part.bytes for part in self.storage)

    @property
    def _scales(self) -> Array:
        return tensor_of(self.scales).numpy().reshape(tensor_of(self.weight).numpy().shape[:2])

    @property
    def _middle(self) -> Array:
        """``[m, runs]``, an integer each: what stands for zero."""
        if self.zeros is None:
            return np.full(self._scales.shape, 2 ** (self.bits - 1), np.uint8)
        m, runs = self._scales.shape
        shifts = np.arange(0, 8, self.bits, dtype=np.uint8)
        entries: Array = tensor_of(self.zeros).numpy().reshape(m, -1, 1) >> shifts & (2**self.bits - 1)
        return entries.reshape(m, -1)[:, :runs]


def find_packed(graph: ir.Graph) -> list[Packed]:
    """Every such product whose parts nobody else reads, in the order of the graph, once for each weight."""
    products = [packed for node in graph if (packed := _packed(node)) is not None]
    readers: dict[tuple[ir.Value, ir.Value, ir.Value | None], set[ir.Node]] = {}
    for packed in products:
        readers.setdefault(_parts(packed), set()).add(packed.node)
    first = {_parts(packed): packed for packed in reversed(products)}
    return [packed for parts, packed in reversed(first.items()) if _are_read_by(parts[:2], readers[parts])]


def _parts(packed: Packed) -> tuple[ir.Value, ir.Value, ir.Value | None]:
    return packed.weight, packed.scales, packed.zeros


def _are_read_by(values: Sequence[ir.Value], nodes: set[ir.Node]) -> bool:
    return all({use.node for use in value.uses()} == nodes and not value.is_graph_output() for value in values)


def _packed(node: ir.Node) -> Packed | None:
    if (node.domain, node.op_type) != ("com.microsoft", "MatMulNBits"):
        return None
    _, weight, scales, zeros, _, bias = (*node.inputs, *(None,) * 6)[:6]
    m, n, size, bits = (node.attributes.get_int(name, 0) for name in ("N", "K", "block_size", "bits"))
    bits = bits or 4
    if weight is None or scales is None or not all(is_constant(part) for part in (weight, scales, zeros or weight)):
        return None
    if bits not in _REPEATED or not size or m * n == 0 or size * bits % 8:
        return None
    runs, width = -(-n // size), size * bits // 8
    fits = tuple(tensor_of(weight).shape.numpy()) == (m, runs, width) and tensor_of(scales).size == m * runs
    packed_zeros = zeros is None or tensor_of(zeros).dtype == ir.DataType.UINT8
    if not fits or not packed_zeros or tensor_of(weight).dtype != ir.DataType.UINT8:
        return None
    return Packed(
        weight.name or "", node, node.outputs[0], weight, scales, zeros, bias, dims=(m, n), size=size, bits=bits
    )
