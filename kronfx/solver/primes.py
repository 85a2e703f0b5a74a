"""Prime exponents and divisors."""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from math import prod


@lru_cache(maxsize=4096)
def _powers(number: int) -> tuple[tuple[int, int], ...]:
    powers: dict[int, int] = {}
    candidate = 2
    while candidate * candidate <= number:
        while number % candidate == 0:
            powers[candidate] = powers.get(candidate, 0) + 1
            number //= candidate
        candidate += 1 + candidate % 2  # 2, 3, 5, 7, 9, ...
    if number > 1:
        powers[number] = powers.get(number, 0) + 1
    return tuple(powers.items())


def factorization(number: int) -> dict[int, int]:
    """``{prime: exponent}`` of a positive integer, by trial division."""
    return dict(_powers(number))


def divisors(powers: dict[int, int]) -> list[int]:
    """All divisors of the number with this factorization, in no particular order."""
    return [prod(parts) for parts in product(*([p**e for e in range(k + 1)] for p, k in powers.items()))]
