"""The records of maps, collected in as many passes over the batches as their memory asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import nn

from kronfx.compress.calibration import Fisher, observe
from kronfx.compress.maps import Map
from kronfx.compress.moments import Moments
from kronfx.compress.record import Record


class Samples:
    """A model, its calibration batches, and what its maps got from them; with ``fisher`` the outputs' gradients too."""

    def __init__(
        self, model: nn.Module, batches: Sequence[Any], memory: int, fisher: Callable[[], Fisher] | None = None
    ) -> None:
        self.model, self.batches, self.memory, self._fisher = model, batches, memory, fisher
        self.weighed_by = "nothing"
        self._held: list[Record] = []  # of all maps, where they fit into memory together

    def records(self, maps: Sequence[Map]) -> Iterator[Record]:
        """The record of every map, of as many at once as ``memory`` allows. Raises PruneError."""
        if [record.map for record in self._held] == list(maps):
            yield from self._held
            return
        groups = self._groups(maps)
        for group in groups:
            records = self._observed(group)
            self._held = records if len(groups) == 1 else []
            yield from records

    def _observed(self, maps: Sequence[Map]) -> list[Record]:
        fisher = None if self._fisher is None else self._fisher()
        records = observe(self.model, maps, self.batches, fisher)
        self.weighed_by = self.weighed_by if fisher is None else fisher.source
        return records

    def _groups(self, maps: Sequence[Map]) -> list[list[Map]]:
        """One map at least in each."""
        groups: list[list[Map]] = []
        left = 0
        for subject in maps:
            needed = subject.site.stack * Moments.memory(subject.site.n, subject.grid)
            if not groups or needed > left:
                groups.append([])
                left = self.memory
            groups[-1].append(subject)
            left -= needed
        return groups
