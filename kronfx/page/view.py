"""What a page shows, as values: JSON-ready, so that the page's own script can read them."""

from __future__ import annotations

from dataclasses import dataclass

from kronfx.records import Evaluated, KroneckerShape, Refusal


@dataclass(frozen=True, slots=True)
class Picture:
    """A matrix ``[rows, columns]`` as a picture of ``height x width`` cells, each the root mean square of what it
    covers (signed pictures: the mean).

    ``cells`` is base64 of one byte a cell, row by row: 0 where all that a cell covers is exactly zero, else
    ``1 + 254 |v| / top``; of a ``signed`` picture ``128 + 127 v / top``.
    """

    name: str
    rows: int
    columns: int
    height: int
    width: int
    cells: str
    top: float
    signed: bool = False

    @property
    def is_whole(self) -> bool:
        """Every entry has a cell of its own."""
        return (self.height, self.width) == (self.rows, self.columns)


@dataclass(frozen=True, slots=True)
class BlockMap:
    """The Frobenius norms of the blocks of ``W``, ``[m1, n1]``; their sums along each block row and column; how many
    blocks survive in the whole map."""

    norms: Picture
    row_sums: tuple[float, ...]
    column_sums: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Lap:
    """What one way to run a layer took: median ``seconds`` over so many ``rows``."""

    way: str
    rows: int
    seconds: float


@dataclass(frozen=True, slots=True)
class RunnerUp:
    """A block shape that the integer program ranked, and its value."""

    shape: str
    value: int


@dataclass(frozen=True, slots=True)
class Proof:
    """What the integer program says of a layer, in a sentence, with the next best shapes in ``unit``; ``command`` asks
    it again."""

    sentence: str
    unit: str
    ranked: tuple[RunnerUp, ...]
    command: str


@dataclass(frozen=True, slots=True)
class Sheet:
    """One linear map ``W [m, n]``: its row in the table and what is known beside.

    ``factored`` is what it evaluates where it runs by its factors. ``dense`` and ``stored`` are entries of the dense
    weight and what is kept of it now, ``bytes`` and ``dense_bytes`` their sizes in a file, ``dense_work`` and ``work``
    multiply-adds a row of ``x``; ``predicted`` and ``measured`` seconds of a training step; ``energy`` the share kept
    of the trained weight.
    """

    site: str
    state: str
    m: int
    n: int
    runs_as: str
    shape: KroneckerShape | None = None
    rank: int | None = None
    factored: Evaluated | None = None
    stack: int = 1
    dense: int = 0
    stored: int = 0
    dense_bytes: int | None = None
    bytes: int | None = None
    dense_work: int | None = None
    work: int | None = None
    zero_blocks: int | None = None
    blocks: int | None = None
    energy: float | None = None
    predicted: float | None = None
    measured: float | None = None
    why: str = ""
    map: BlockMap | None = None
    factors: tuple[Picture, ...] = ()
    laps: tuple[Lap, ...] = ()
    proof: Proof | None = None


@dataclass(frozen=True, slots=True)
class Gain:
    """A figure of the verdict, in ``unit``: what it is, and was ``before`` where that is known. Less is better."""

    name: str
    unit: str
    after: float
    before: float | None = None


@dataclass(frozen=True, slots=True)
class Curve:
    """A named line of a training: ``points`` of (step, value)."""

    name: str
    points: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Page:
    """All of it. ``before`` are the sheets of what it is held against, matched by their sites; ``verified`` says where
    it was shown to compute the same, and how closely; ``curves`` are shares of zero groups, ``figures`` whatever else
    a training recorded. ``command`` made the page."""

    title: str
    kind: str
    sheets: tuple[Sheet, ...]
    gains: tuple[Gain, ...] = ()
    verified: str = ""
    refusals: tuple[Refusal, ...] = ()
    curves: tuple[Curve, ...] = ()
    figures: tuple[Curve, ...] = ()
    notes: tuple[str, ...] = ()
    command: str = ""
    before: tuple[Sheet, ...] = ()
