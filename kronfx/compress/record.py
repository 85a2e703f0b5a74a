"""What the products with one parameter told: the moments of its maps, its bias, or why it was not understood."""

from __future__ import annotations

from torch import Tensor, nn

from kronfx.compress.maps import Map
from kronfx.compress.moments import Moments, patches


class Record:
    """An observer of a map: the moments of each member of its stack (one, where it is none)."""

    def __init__(self, subject: Map) -> None:
        self.map = subject
        self.moments = [Moments.none(subject.site.n, subject.grid) for _ in range(subject.site.stack)]
        self._strange = ""
        self._biases: set[nn.Parameter | None] = set()

    @property
    def bias(self) -> nn.Parameter | None:
        """The parameter that every product with the map was given to add; None where there is no such one."""
        return next(iter(self._biases)) if len(self._biases) == 1 else None

    def reason(self, gradients: bool) -> str | None:
        """Why the map has to be left alone; None where it was understood. With ``gradients`` it needs some."""
        if self._strange:
            return self._strange
        if not any(moments.rows for moments in self.moments):
            return "no product with it ran in the calibration batches"
        if gradients and not any(bool(moments.gg.any()) for moments in self.moments):
            return "no gradient reached it: the outputs do not depend on it, or a forward cuts it off (no_grad, detach)"
        return None

    @property
    def worth(self) -> float:
        """``E |g|^2`` of the gradients ``g`` of its outputs, as far as they were looked at."""
        return sum(float(each.gg.diagonal(dim1=1, dim2=2).sum()) / max(each.rows, 1) for each in self.moments)

    def beside(self, parameters: list[nn.Parameter]) -> None:
        """Parameters that the function takes besides."""
        fitting = {p for p in parameters if p.shape == (self.map.site.m,)}
        self._biases |= fitting if fitting and self.map.site.stack == 1 else {None}

    def drop_bias(self) -> None:
        """It is not this map's alone."""
        self._biases.add(None)

    def product(self, x: Tensor, matrix: Tensor, y: Tensor) -> None:
        """``y = x @ matrix``, or the convolution of ``x`` by ``matrix``."""
        if x.is_nested or not x.is_floating_point():
            self._strange = "what it is multiplied with is no plain tensor of floats"
        elif self.map.convolution is not None:
            self._take(self.moments[0], patches(x, self.map.convolution), y, 1)
        elif matrix.shape == self._turned.shape and _same(matrix, self._turned):
            self._whole(x, y)
        else:
            self._part(x, matrix, y)

    @property
    def _turned(self) -> Tensor:
        """``W^T`` as it is stored."""
        parameter = self.map.parameter
        return parameter if self.map.transposed else parameter.mT

    def _whole(self, x: Tensor, y: Tensor) -> None:
        """Of a stack, all members at once."""
        if self._turned.dim() == 2:
            self._take(self.moments[0], x, y, -1)
        elif x.dim() == self._turned.dim() == 3:
            for number, moments in enumerate(self.moments):
                moments.take(x[number])
            if y.requires_grad:
                y.register_hook(self._gradients_of_all)
        else:
            self._strange = f"its stack is multiplied with a tensor of {x.dim()} axes"

    def _part(self, x: Tensor, matrix: Tensor, y: Tensor) -> None:
        """One member of a stack."""
        members = self._turned.flatten(0, -3) if self._turned.dim() > 2 else ()
        for moments, member in zip(self.moments, members):
            if _same(matrix, member):
                self._take(moments, x, y, -1)
                return
        self._strange = f"a part of it, {'x'.join(map(str, matrix.shape))}, is multiplied by itself"

    def _take(self, moments: Moments, x: Tensor, y: Tensor, axis: int) -> None:
        """Rows of inputs now, and of the gradients of ``y``, whose outputs lie along an axis, when they come."""
        moments.take(x.reshape(-1, self.map.site.n))
        if y.requires_grad:
            y.register_hook(lambda g: moments.take_gradients(g.movedim(axis, -1).reshape(-1, self.map.site.m)))

    def _gradients_of_all(self, gradient: Tensor) -> None:
        for moments, g in zip(self.moments, gradient):
            moments.take_gradients(g)


def _same(a: Tensor, b: Tensor) -> bool:
    return (a.data_ptr(), a.shape, a.stride()) == (b.data_ptr(), b.shape, b.stride())
