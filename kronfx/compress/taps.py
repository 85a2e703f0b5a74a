"""What maps get in one forward, and the streams that their outputs are added to, seen up to the last of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from kronfx.compress.maps import Map
from kronfx.compress.moments import patches
from kronfx.compress.watch import Watch

_CLOCK = itertools.count(1)  # which product comes first
ROUNDING = 1e-2  # of the largest entry: what two forwards in 16 bits may differ by
SUMS = {"add", "__add__", "__radd__", "__iadd__", "add_"}


class _Enough(BaseException):
    """All that was looked for was seen: the rest of the forward need not run."""


@dataclass(eq=False, slots=True)
class Tap:
    """What one map gets in one forward, ``xs``, and what its outputs are added to, ``streams``, if they are.

    ``calls`` and ``sums`` are how many of both there are in a forward; maps with one ``source`` get the same ``xs``.
    """

    map: Map
    calls: int = 0
    sums: int = 0
    source: tuple[object, ...] = ()
    first: int = 0
    xs: list[Tensor] = field(default_factory=list)
    streams: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)

    def beside(self, parameters: list[nn.Parameter]) -> None:
        """A bias is known already."""

    def product(self, x: Tensor, matrix: Tensor, y: Tensor) -> None:
        """Rows ``[N, n]``."""
        convolution = self.map.convolution
        self.first = self.first or next(_CLOCK)
        self.source += x.data_ptr(), x.shape, convolution is None or id(self)
        self.xs.append(patches(x, convolution) if convolution is not None else x.reshape(-1, self.map.site.n))

    def summed(self, a: Tensor, b: Tensor) -> None:
        """A sum of two tensors, about to be taken."""
        for output in self.outputs:
            for one, other in ((a, b), (b, a)):
                if one.data_ptr() == output.data_ptr() and one.is_contiguous() and one.shape == other.shape:
                    self.streams.append(other.detach().reshape(-1, self.map.site.m).clone())
                    return

    def anew(self, subject: Map | None = None) -> Tap:
        """An empty one of the same map, or of its copy."""
        return Tap(subject or self.map, self.calls, self.sums)

    def agrees(self, other: Tap) -> bool:
        """Whether another forward gave it the same, as far as rounding goes."""
        ours, theirs = [*self.xs, *self.streams], [*other.xs, *other.streams]
        return [a.shape for a in ours] == [b.shape for b in theirs] and all(
            float((a - b).abs().amax()) <= ROUNDING * float(b.abs().amax()) for a, b in zip(ours, theirs) if len(a)
        )

    @property
    def is_done(self) -> bool:
        """Whether all there is was seen."""
        return len(self.xs) == self.calls and len(self.streams) == self.sums


class _Taps(Watch):
    """Watches products and the sums that their results go into; stops the forward once every tap is done."""

    def __init__(self, taps: Sequence[Tap], whole: bool) -> None:
        super().__init__({tap.map.parameter: tap for tap in taps})
        self._taps, self._whole = taps, whole

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in SUMS and all(type(value) is Tensor for value in args):
            for tap in self._taps:
                tap.summed(*args[:2])
        before = [len(tap.xs) for tap in self._taps]
        result = super().__torch_function__(func, types, args, kwargs)
        for tap, count in zip(self._taps, before):
            if len(tap.xs) > count and isinstance(result, Tensor) and tap.map.convolution is None:
                tap.outputs.append(result)
        if not self._whole and all(tap.is_done for tap in self._taps):
            raise _Enough
        return result


def seen(taps: Sequence[Tap], forward: Callable[[], object], whole: bool = False) -> None:
    """Let a forward fill the taps; it ends with the last of them unless the ``whole`` of it is to run."""
    with suppress(_Enough), torch.no_grad(), _Taps(taps, whole):
        forward()
