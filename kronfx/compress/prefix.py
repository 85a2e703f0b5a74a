"""What is left of every map set anew once more, on what the pruned maps before it hand it: errors do not add up.

Step after step in the order in which the maps run, those of one input together. Of the same batches the trained model
gives a map ``x``, the pruned one ``x'``. Where its output is added to a stream, ``r`` and ``r'`` (the end of a residual
branch), it also repairs what went wrong in the stream before it: on its survivors ``W'`` has the least
``E |W x + b + r - W' x' - b' - r'|^2``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kronfx.compress.calibration import Loss, measured, ran
from kronfx.compress.maps import Map, add_to, precise
from kronfx.compress.moments import added, wide
from kronfx.compress.refit import refitted
from kronfx.compress.replay import Replay
from kronfx.compress.taps import Tap, seen
from kronfx.errors import PruneError
from kronfx.progress import bar
from kronfx.records import KroneckerShape

CONSTANT = 1e-4  # of the raw second moments: what inputs that the prefix has made constant are damped by


@dataclass(frozen=True, eq=False, slots=True)
class Survivors:
    """A map of the trained model, the same of the pruned one, and of every member of its stack the blocks that stay,
    ``[m1, n1]``; the biases of both, where the products have one."""

    trained: Map
    pruned: Map
    kept: Sequence[Tensor]
    trained_bias: nn.Parameter | None
    bias: nn.Parameter | None


@dataclass(eq=False, slots=True)
class Stream:
    """Of one map the sums over ``d = r - r'`` and over ``d x'^T``, where it ends a branch."""

    d: Tensor
    dy: Tensor

    @classmethod
    def none(cls, subject: Map) -> Stream:
        """Of no row."""
        sizes = (subject.site.m,), (subject.site.m, subject.site.n)
        return cls(*(torch.zeros(size, dtype=torch.float64) for size in sizes))


class Shift:
    """What the maps of one input get: sums over rows ``x`` of the trained model and ``x'`` of the pruned one, and what
    each of them is added to, in float64.

    ``16 n^2`` bytes, and ``8 m n`` for each of the maps; ``8 n^2`` more while one of them is fitted, besides its fit.
    """

    def __init__(self, maps: Sequence[Map]) -> None:
        self.rows, self.is_true, n = 0, True, maps[0].site.n
        self.x, self.y, self.xy, self.yy = (torch.zeros(s, dtype=torch.float64) for s in ((n,), (n,), (n, n), (n, n)))
        self.streams = [Stream.none(subject) for subject in maps]

    def take(self, trained: Sequence[Tap], pruned: Sequence[Tap]) -> None:
        """What both models' maps saw of one batch: worth nothing once routing sent one of them more rows."""
        rows = [[len(x) for x in tap.xs] for tap in (*trained, *pruned)]
        self.is_true &= all(each == rows[0] for each in rows)
        if not self.is_true:
            return
        for call, (x, y) in enumerate(zip(trained[0].xs, pruned[0].xs)):
            x, y = wide(x), wide(y)
            self.rows += len(x)
            self.x, self.y = added(self.x, x.sum(0)), added(self.y, y.sum(0))
            self.xy, self.yy = added(self.xy, x.mT @ y), added(self.yy, y.mT @ y)
            for stream, ours, theirs in zip(self.streams, trained, pruned):
                if len(ours.streams) == len(theirs.streams) == len(ours.xs):
                    d = wide(ours.streams[call]) - wide(theirs.streams[call])
                    stream.d, stream.dy = added(stream.d, d.sum(0)), added(stream.dy, d.mT @ y)

    def fit(
        self, number: int, W: Tensor, kept: Tensor, grid: KroneckerShape, damping: float, centred: bool
    ) -> tuple[Tensor, Tensor]:
        """``W' [m, n]`` and ``b' - b [m]`` of one of the maps."""
        x, y, d = self.x / self.rows, self.y / self.rows, self.streams[number].d / self.rows
        H, W = self.yy / self.rows, W.to(self.yy)
        T = (W @ self.xy + self.streams[number].dy) / self.rows
        least = CONSTANT * float(H.diagonal().mean())
        if centred:
            H.addr_(y, y, alpha=-1)
            T.addr_(W @ x + d, y, alpha=-1)
        identity = damping * float(H.diagonal().mean()) + least or 1.0
        H.diagonal().add_(identity)
        fitted = refitted(T.add_(W, alpha=identity), H, kept.to(H.device), grid)
        return fitted, W @ x + d - fitted @ y


class Forwards:
    """A model and the batches that it runs again and again, up to a tap; what is over for good is replayed.

    Where a forward without replay gives the taps something else on the first batch (a module that speaks to others by
    more than what it returns), nothing is replayed any more.
    """

    def __init__(self, model: nn.Module, batches: Sequence[Any], loss: Loss | None) -> None:
        self.model, self._batches, self._loss = model, batches, loss
        self._replay: Replay | None = None

    def steps(self, maps: Sequence[Map]) -> list[list[Tap]]:
        """The maps as they run, those of one input together, each with how often it does."""
        taps = [Tap(subject) for subject in maps]
        seen(taps, partial(ran, self.model, self._batches[0], self._loss), whole=True)
        steps: dict[object, list[Tap]] = {}
        for tap in sorted((tap for tap in taps if tap.xs), key=lambda tap: tap.first):
            sums = len(tap.streams) if len(tap.streams) == len(tap.xs) else 0
            steps.setdefault(tap.source, []).append(Tap(tap.map, len(tap.xs), sums))
        return list(steps.values())

    def expect(self, maps: Sequence[Map]) -> None:
        """These maps will be set, in this order."""
        self._replay = Replay(self.model, maps)

    def finish(self, maps: Sequence[Map]) -> None:
        """These were set."""
        if self._replay is not None:
            self._replay.finish(maps)

    def see(self, number: int, taps: Sequence[Tap]) -> Sequence[Tap]:
        """The taps after a forward of this batch."""
        forward = partial(ran, self.model, self._batches[number], self._loss)
        if self._replay is not None and number:
            with self._replay.forward(number):
                seen(taps, forward)
            return taps
        replayed = None if self._replay is None else _replayed(self._replay, taps, forward)
        seen(taps, forward)
        if replayed is not None and not all(map(Tap.agrees, taps, replayed)):
            self._replay = None
        return taps


def _replayed(replay: Replay, taps: Sequence[Tap], forward: Callable[[], None]) -> Sequence[Tap]:
    """What a replay gives such taps of the first batch: before it runs, so that nothing it leaves behind helps."""
    again = [tap.anew() for tap in taps]
    with suppress(PruneError), replay.forward(0):
        seen(again, forward)
    return again


def refit_on_prefix(
    trained: Forwards, pruned: Forwards, survivors: Sequence[Survivors], batches: int, damping: float
) -> None:
    """Set the survivors of the pruned model anew, in place, by forwards of both models up to each step.

    Stacks stay as they are: another stream may be routed to other members. Raises PruneError.
    """
    of = {each.trained: each for each in survivors if len(each.kept) == 1}
    with measured(trained.model), measured(pruned.model):
        steps = trained.steps(list(of))
        expected = [tap.map for step in steps for tap in step]
        trained.expect(expected)
        pruned.expect([of[each].pruned for each in expected])
        with bar("on the prefix", len(steps)) as begin:
            for step in steps:
                begin(", ".join(tap.map.site.name for tap in step))
                copies = [tap.anew(of[tap.map].pruned) for tap in step]
                shift = Shift([tap.map for tap in step])
                for number in range(batches):
                    theirs = trained.see(number, [tap.anew() for tap in step])
                    shift.take(theirs, pruned.see(number, [tap.anew() for tap in copies]))
                if shift.rows and shift.is_true:
                    for place, tap in enumerate(step):
                        _set(of[tap.map], shift, place, damping)
                trained.finish([tap.map for tap in step])
                pruned.finish([tap.map for tap in copies])


def _set(survivors: Survivors, shift: Shift, place: int, damping: float) -> None:
    pruned, bias = survivors.pruned, survivors.bias
    W, kept = survivors.trained.weights[0], survivors.kept[0]
    fitted, moved = shift.fit(place, W, kept, pruned.grid, damping, bias is not None)
    pruned.write(fitted.unsqueeze(0))
    if bias is not None and survivors.trained_bias is not None:
        add_to(bias, precise(survivors.trained_bias.detach()), moved)
