"""What a machine takes for matrix products: three integers, measured once and passed on as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from kronfx.errors import PlanError
from kronfx.tables import Part, Shown

RATES_FORMAT = "kronfx-rates"
ATTOSECONDS = 10**18  # of a second


@dataclass(frozen=True, slots=True)
class Rates(Shown):
    """Attoseconds (1e-18 s) per multiply-add, per entry read or written, and per matrix product.

    The time of an evaluation is their sum over what it does: the roofline model, its two limits added (Williams,
    Waterman and Patterson 2009). ``measured`` says where and how they were found.
    """

    multiply_add: int
    entry: int
    product: int
    measured: str = ""

    def __post_init__(self) -> None:
        rates = (self.multiply_add, self.entry, self.product)
        if not all(type(rate) is int and rate >= 0 for rate in rates) or not any(rates):
            found = f"rates {rates}"
            raise PlanError("", found, "three integers of at least 0, not all 0", "measure them with kronfx.calibrate")

    def time(self, multiply_adds: int, entries: int, products: int) -> int:
        """Attoseconds."""
        return self.multiply_add * multiply_adds + self.entry * entries + self.product * products

    def to_json(self) -> str:
        """The rates as JSON text; ``from_json`` reads it back equal."""
        return json.dumps({"format": RATES_FORMAT, **asdict(self)})

    @classmethod
    def from_json(cls, text: str) -> Rates:
        """The rates that ``to_json`` wrote. Raises PlanError on anything else."""
        try:
            data = json.loads(text)
            if data.pop("format") != RATES_FORMAT:
                raise ValueError("another format")
            return cls(**data)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            found = f"text that is no kronfx rates ({type(error).__name__}: {error})"
            raise PlanError(
                "", found, "the text that Rates.to_json wrote", "measure anew with kronfx.calibrate"
            ) from None

    def shown(self) -> Iterable[Part]:
        """What is printed: one line."""
        yield (
            f"{1e9 / max(self.multiply_add, 1):.3g} G multiply-adds/s, {1e9 / max(self.entry, 1):.3g} G entries/s, "
            f"{self.product / 1e12:.3g} us a product{f' ({self.measured})' if self.measured else ''}"
        )
