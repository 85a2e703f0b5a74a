"""The folded linear layer that computes with its surviving blocks only."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kronfx.layers.folded import released
from kronfx.records import KroneckerShape


class BsrLinear(nn.Module):
    """``y [..., m] = x [..., n] W^T + bias`` with ``W`` in torch's block compressed sparse row format (BSR).

    ``values [nnz, m2, n2]`` are the surviving blocks, row by row of the grid; those of block row ``p`` are entries
    ``crow_indices[p]`` to ``crow_indices[p + 1]`` (excluded), and ``col_indices [nnz]`` are their columns.

        y[p] [N, m2] = sum_(k in row p) x[col_k] [N, n2] @ values[k]^T [n2, m2]

    All blocks are multiplied in one batched product, several times as fast as torch's own: ``kronfx/decisions/bsr.md``.
    """

    values: nn.Parameter
    bias: nn.Parameter | None
    crow_indices: Tensor
    col_indices: Tensor

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.shape: KroneckerShape = released(layer)["weight"].shape
        W = layer.weight.detach().to_sparse_bsr(self.shape.block)
        self.values = nn.Parameter(W.values(), requires_grad=layer.weight.requires_grad)
        self.register_buffer("crow_indices", W.crow_indices())
        self.register_buffer("col_indices", W.col_indices())
        self.register_parameter("bias", layer.bias)

    @property
    def in_features(self) -> int:
        """``n``."""
        return self.shape.n

    @property
    def out_features(self) -> int:
        """``m``."""
        return self.shape.m

    @property
    def weight(self) -> Tensor:
        """``W [m, n]``, a torch.sparse_bsr tensor that shares the layer's values."""
        indices, size = (self.crow_indices, self.col_indices), (self.shape.m, self.shape.n)
        return torch.sparse_bsr_tensor(*indices, self.values.detach(), size, check_invariants=False)

    def forward(self, x: Tensor) -> Tensor:
        """``x [..., n] -> [..., m]``."""
        m1, n1, m2, n2 = self.shape.m1, self.shape.n1, self.shape.m2, self.shape.n2
        columns = x.unflatten(-1, (n1, n2)).reshape(-1, n1, n2).transpose(0, 1)
        products = torch.bmm(columns.index_select(0, self.col_indices), self.values.mT)
        # Half types are summed in float32, as torch's products do inside.
        sums = torch.zeros(
            m1, columns.shape[1], m2, device=x.device, dtype=torch.promote_types(products.dtype, torch.float32)
        )
        y = sums.index_add(0, self._rows(), products.to(sums.dtype)).to(products.dtype)
        y = y.transpose(0, 1).reshape(*x.shape[:-1], m1 * m2)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def _rows(self) -> Tensor:
        """The block row of every stored block, ``[nnz]``."""
        rows = torch.arange(self.shape.m1, device=self.crow_indices.device)
        return torch.repeat_interleave(rows, self.crow_indices.diff(), output_size=len(self.values))

    def extra_repr(self) -> str:
        """Shape, grid and survivors, for ``print(model)``."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, blocks={self.shape}, "
            f"stored={len(self.values)}, bias={self.bias is not None}"
        )
