"""What a whole-model budget bought, and how far from the best that is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kronfx.tables import Part, Shown


@dataclass(frozen=True, slots=True)
class Budget(Shown):
    """The certificate of a budgeted plan.

    ``max_parameters`` bounds the parameters of the whole model, ``max_multiply_adds`` those of all its linear maps over
    the expected rows. ``value`` is the geometric mean, over the maps, of the share that each keeps (1 for a dense one),
    ``bound`` what no choice of shapes and ranks among the ``candidates`` can beat. The prices say by which share of
    itself one more parameter, or one more multiply-add, would raise it: the multipliers of the linear relaxation.
    ``measure``: what is kept, ``energy`` (of ``||W||^2``, by the nearest factors), ``output energy`` (of
    ``tr(W H W^T)``, by those that fit a trained model's batches) or a ``surrogate`` (``log(1 + r) / log(1 + R)``,
    ``R = min(m1 n1, m2 n2)``).
    """

    max_parameters: int | None
    max_multiply_adds: int | None
    value: float
    bound: float
    candidates: int
    measure: str
    parameter_price: float
    multiply_add_price: float

    @property
    def gap(self) -> float:
        """``(bound - value) / bound``."""
        return max(0.0, (self.bound - self.value) / self.bound)

    def shown(self) -> Iterable[Part]:
        """What is printed: one sentence."""
        yield self.sentence

    @property
    def sentence(self) -> str:
        """What was allowed, what it bought, and what more would buy."""
        limits = []
        prices = []
        if self.max_parameters is not None:
            limits.append(f"at most {self.max_parameters:,} parameters in the whole model")
            prices.append(f"1,000 more parameters would raise it by {1000 * self.parameter_price:.3g} of itself")
        if self.max_multiply_adds is not None:
            limits.append(f"at most {self.max_multiply_adds:,} multiply-adds in its linear maps")
            prices.append(f"1,000,000 more multiply-adds by {1_000_000 * self.multiply_add_price:.3g}")
        return (
            f"budget: {' and '.join(limits)}; {self.measure} kept (geometric mean) {self.value:.2%} "
            f"of at most {self.bound:.2%} (gap {100 * self.gap:.2g}%, {self.candidates:,} candidates); "
            f"{', '.join(prices)}"
        )
