"""Folded weights: parameters of ordinary modules, whose block grids are remembered beside them.

A folded layer is exactly an ``nn.Linear`` or ``nn.Conv1d/2d/3d``. Quantization, fusion and scripting go by the exact
type: of a subclass, ``quantize_dynamic`` and fx's ``fuse`` leave it alone without a word, ``fuse_modules`` and
``torch.jit.script`` raise. So the grid is no business of the class: it lies in an attribute of the owner, which copies,
pickles and fused layers inherit, and which no tool of torch's looks at.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor, nn

from kronfx import kron
from kronfx.layers.convolution import Convolution
from kronfx.records import KroneckerShape

GRIDS = "kronecker_grids"  # the attribute: of each weight's name the grid of W, and how the owner stores W:
Grid = tuple[KroneckerShape, bool, bool]  # transposed or not, as a convolution's kernel or not


@dataclass(frozen=True, slots=True)
class FoldedWeight:
    """A block-sparse ``W [..., m, n]`` and its grid; of a convolution the unrolled ``[m, channels taps]``.

    The last blocks of a padded grid reach beyond ``W``.
    """

    weight: Tensor
    shape: KroneckerShape

    @property
    def blocks(self) -> int:
        """How many blocks it has."""
        return self.weight.shape[:-2].numel() * self.shape.blocks

    def zero_blocks(self) -> int:
        """How many of them are exactly zero."""
        return self.blocks - int(kron.block_mask(self.weight, self.shape).sum())


def released(owner: nn.Module) -> dict[str, FoldedWeight]:
    """The folded weights of an owner, by their names in it; what has another size by now has lost its grid."""
    grids: dict[str, Grid] = vars(owner).get(GRIDS, {})
    found = {}
    for name, (shape, transposed, is_kernel) in grids.items():
        weight = getattr(owner, name, None)
        if not isinstance(weight, Tensor):
            continue
        values = _values(weight)
        W = values.flatten(1) if is_kernel else values.mT if transposed else values
        rows, columns = W.shape[-2:]
        if (-(-rows // shape.m2), -(-columns // shape.n2)) == (shape.m1, shape.n1):
            found[name] = FoldedWeight(W, shape)
    return found


def _values(weight: Tensor) -> Tensor:
    """What a weight holds; of a quantized one, which knows how, what its numbers mean."""
    is_quantized = type(weight).dequantize is not Tensor.dequantize
    return weight.dequantize() if is_quantized else weight.detach()


class _Folded(type):
    """``isinstance`` by what a layer is and knows, not by its class: as ``torch.nn.Buffer`` is one."""

    def __instancecheck__(cls, layer: object) -> bool:
        return isinstance(layer, cls.__base__ or object) and "weight" in vars(layer).get(GRIDS, {})


class BlockSparseLinear(nn.Linear, metaclass=_Folded):
    """A folded layer: an ``nn.Linear``, exactly, that knows its block grid (``kronfx.layers.released``).

    The weight is stored dense, zero blocks and all: its ``state_dict`` is the original dense layer's. The export stores
    the surviving blocks only, and ``kronfx.to_bsr`` makes layers of it that multiply, and train, only these.
    """

    def __new__(cls, weight: Tensor, bias: Tensor | None, shape: KroneckerShape) -> nn.Linear:  # type: ignore[misc]
        """The layer of ``weight [m, n]`` and ``bias [m]``, which it copies."""
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
        return _filled(layer, weight, bias, (shape, False, False))


class BlockSparseConv(nn.modules.conv._ConvNd, metaclass=_Folded):
    """A folded convolution: an ``nn.Conv1d/2d/3d``, exactly, that knows the block grid of its unrolled weight."""


_BUILD: dict[int, Callable[..., nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def block_sparse_conv(W: Tensor, bias: Tensor | None, shape: KroneckerShape, convolution: Convolution) -> nn.Module:
    """The convolution of the unrolled ``W [m, channels taps]``, as a module that knows its block grid."""
    c, weight = convolution, W.detach().unflatten(-1, (-1, *convolution.kernel)).requires_grad_(W.requires_grad)
    options = {"stride": c.stride, "padding": c.padding, "dilation": c.dilation, "bias": bias is not None}
    layer = _BUILD[len(c.kernel)](weight.shape[1], W.shape[0], c.kernel, **options, device="meta")
    return _filled(layer, weight, bias, (shape, False, True))


_Layer = TypeVar("_Layer", bound=nn.Module)


def _filled(layer: _Layer, weight: Tensor, bias: Tensor | None, grid: Grid) -> _Layer:
    """The layer with copies of these values, trained where they were, and the grid."""
    for name, value in (("weight", weight), ("bias", bias)):
        if value is not None:
            setattr(layer, name, nn.Parameter(value.detach().clone(), requires_grad=value.requires_grad))
    vars(layer)[GRIDS] = {"weight": grid}
    return layer
