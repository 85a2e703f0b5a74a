"""What can be wished of pruning: every option once, as :mod:`kronfx.options` says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from typing_extensions import TypedDict

from kronfx.compress.calibration import Loss
from kronfx.compress.criteria import How
from kronfx.compress.share import Shares
from kronfx.errors import PruneError
from kronfx.options import option, settle

Refit = Literal["exact", "prefix"]
Names = str | type | Iterable[str | type] | None
Target = float | Mapping[str, float] | Sequence[float]


class PruneKeywords(TypedDict, total=False):
    """The names and types of :class:`PruneOptions`, for static checkers."""

    target: Target
    block: tuple[int, int]
    loss: Loss | None
    include: Names
    exclude: Names
    how: How
    shares: Shares
    floor: float
    refit: Refit
    damping: float
    memory: int
    seed: int


def _target(name: str, value: object) -> Any:
    """One share, several of them, or shares by name. Raises PruneError."""
    if isinstance(value, Mapping) and value:
        return {pattern: _share(f"{name}[{pattern!r}]", share) for pattern, share in value.items()}
    if isinstance(value, (list, tuple)) and value:
        return [_share(name, share) for share in value]
    return _share(name, value)


def _share(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1:
        needed = "the share of blocks that become zero, between 0 and 1"
        raise PruneError("", f"{name}={value!r}", needed, "pass 0.75, a list of shares, or a dict of shares by name")
    return float(value)


def _block(name: str, value: object) -> tuple[int, int]:
    pair = tuple(value) if isinstance(value, (tuple, list)) else ()
    if len(pair) != 2 or not all(type(size) is int and size >= 1 for size in pair):
        needed = "a pair (m2, n2) of positive integers, output rows first"
        raise PruneError("", f"{name}={value!r}", needed, "pass (16, 16), say")
    return pair[0], pair[1]


def _loss(name: str, value: object) -> object:
    if value is not None and not callable(value):
        needed = "a function of the model and a batch that returns the loss"
        raise PruneError("", f"{name} of type {type(value).__name__}", needed, f"pass {name}=lambda model, batch: ...")
    return value


def _one_of(known: Any) -> Any:
    names = get_args(known)

    def checked(name: str, value: object) -> object:
        if value not in names:
            raise PruneError("", f"{name}={value!r}", f"one of {', '.join(map(repr, names))}", "choose among these")
        return value

    return checked


def _least(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise PruneError("", f"{name}={value!r}", "a share from 0 to less than 1", f"pass {name}=0.01, say")
    return float(value)


def _damping(name: str, value: object) -> float:
    if _least(name, value) == 0:
        found = f"{name}=0, with which inputs that never vary have no inverse"
        raise PruneError("", found, "a positive share of the mean diagonal", f"pass {name}=1e-6 for nearly none")
    return float(value)  # type: ignore[arg-type]


def _count(name: str, value: object) -> int:
    if type(value) is not int or value < 0:
        raise PruneError("", f"{name}={value!r}", "a whole number, not negative", f"leave {name} out for the default")
    return value


@dataclass(frozen=True, slots=True)
class PruneOptions:
    """See the fields."""

    target: Target = option(
        0.75,
        "a share",
        """of the blocks that become zero. Several in a list cost little more than one, and a model comes back for each.
        A dict has shares of single maps, by name or glob; the others stay dense.""",
        _target,
        "What becomes zero",
    )
    block: tuple[int, int] = option(
        (16, 16), "entries (m2, n2)", "outputs first. Of a convolution, channels: its taps lie inside a block.", _block
    )
    include: Names = option(None, "names, globs or types", "the maps that are pruned; all by default.")
    exclude: Names = option(None, "names, globs or types", "the maps that stay dense.")
    floor: float = option(0.0, "a share", "of the blocks that every map keeps at least.", _least)
    how: How = option(
        "obs",
        "a name",
        """what a block is worth: ``"obs"``, what its going costs the loss once all others are set anew (optimal brain
        surgeon with Fisher weights); ``"energy"``, the same without gradients, by the share of a map's output energy.
        To compare: ``"fisher"``, inputs and gradients without the surgeon; ``"wanda"``, inputs alone; ``"magnitude"``,
        the weight alone, nothing set anew.""",
        _one_of(How),
        heading="How they are chosen",
    )
    shares: Shares = option(
        "global",
        "a name",
        """what the target is a share of: ``"global"``, all maps together; ``"uniform"``, every map; ``"rows"``, every
        row of blocks.""",
        _one_of(Shares),
    )
    loss: Loss | None = option(
        None,
        "a function",
        """``loss(model, batch)``, a scalar tensor. By default the model's outputs times noise, for which no labels are
        needed; where the model returns a loss of its own, that.""",
        _loss,
    )
    refit: Refit = option(
        "prefix",
        "a name",
        """how the blocks that stay are fitted: ``"exact"``, each map by itself; ``"prefix"``, each map to what it gave
        in the trained model, from what the pruned maps before it hand it. It gains most where much
        goes, and takes a few more forwards of both models and the outputs of their finished modules in memory.""",
        _one_of(Refit),
        "How what is left is set anew",
    )
    damping: float = option(
        0.01, "a share", "of the mean diagonal of the inputs' moments, added to all of it.", _damping
    )
    memory: int = option(
        2**31,
        "bytes",
        "of sums over the batches that are kept at once; more take another pass over the batches.",
        _count,
    )
    seed: int = option(0, "a number", "of the noise.", _count)

    @property
    def targets(self) -> list[float | Mapping[str, float]]:
        """One for each model that comes back."""
        return list(self.target) if isinstance(self.target, Sequence) else [self.target]

    def __post_init__(self) -> None:
        settle(self)
