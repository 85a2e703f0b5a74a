"""What two plans do otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kronfx.tables import Column, Part, Shown, Table

COLUMNS = (
    Column("layer"), Column("before"), Column("after"), Column("parameters", 1, "sum"), Column("now", 2, "sum"),
)  # fmt: skip

Outcome = tuple[str, int | None]  # in words, and the parameters of a factored layer


@dataclass(frozen=True, slots=True)
class Change:
    """One layer: what the other plan makes of it, and what this one does."""

    site: str
    before: str
    after: str
    parameters_before: int | None
    parameters_after: int | None


@dataclass(frozen=True, slots=True)
class PlanDifference(Shown):
    """``plan - other``: the layers that the two treat differently."""

    changes: tuple[Change, ...]

    @classmethod
    def between(cls, after: Mapping[str, Outcome], before: Mapping[str, Outcome]) -> PlanDifference:
        """The sites whose outcomes differ, in the order of the newer plan."""
        absent: Outcome = ("not in this plan", None)
        names = dict.fromkeys([*after, *before])
        pairs = {name: (before.get(name, absent), after.get(name, absent)) for name in names}
        return cls(
            tuple(
                Change(site=n, before=b[0], after=a[0], parameters_before=b[1], parameters_after=a[1])
                for n, (b, a) in pairs.items()
                if a != b
            )
        )

    def __bool__(self) -> bool:
        return bool(self.changes)

    def shown(self) -> Iterable[Part]:
        """What is printed: a row a layer."""
        if not self.changes:
            return ["the plans do the same"]
        rows = tuple((c.site, c.before, c.after, c.parameters_before, c.parameters_after) for c in self.changes)
        return [Table(f"{len(rows)} layers differ", COLUMNS, rows)]
