"""Which block shape: ``K`` patterns train side by side, ``W = sum_k W^(k)``, until one survives (later version, Eq. 7).

The objective is ``task + lambda1 sum_k sqrt(sum_l ||S^(l,k)||_F^2) + lambda2 sum_k sum_l ||S^(l,k)||_1``: the first sum
is a group lasso whose groups are whole patterns, all layers together. A pattern whose norm has fallen below a hundredth
of the strongest's is set to zero and dropped: memory and time go down on the way.

In the group term ``S[p, j]`` counts as the Frobenius norm of block ``(p, j)`` of ``W^(l,k)``, so that
``||S^(l,k)||_F = ||W^(l,k)||_F``, a price that no block shape evades; for L1 the root mean square of ``S`` is 1.
L1 takes its proximal step, the group term goes through the optimizer: ``kronfx/decisions/pattern_selection.md``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from kronfx.errors import TrainError, warn
from kronfx.layers import (
    FactoredLayer,
    KroneckerCandidates,
    KroneckerConv,
    KroneckerLinear,
    candidates_of,
    factored_sites,
    require_module,
)
from kronfx.train.course.pace import Pace
from kronfx.train.course.schedules import Schedule, as_schedule, value_at
from kronfx.train.course.stepper import Stepper
from kronfx.train.options import is_number
from kronfx.train.parts.carry import Carry
from kronfx.train.parts.factored import FactoredPart
from kronfx.train.patterns.contest import Contest, ContestState, Pattern
from kronfx.train.patterns.forget import forget
from kronfx.train.penalties.penalty import Penalty
from kronfx.train.state import State

MOST = 0.1  # that one step may take from |S|, whose root mean square is 1: no strength zeroes a layer at once

Block = tuple[int, int]
Selected = Block | dict[str, Block]

ALONE = "select in one process first, then wrap what is left"


@dataclass(frozen=True, kw_only=True)
class SelectionState(State):
    """The candidates of every site, ``[m1, n1, m2, n2, rank]`` each, and every contest's state as it is saved."""

    sites: dict[str, list[list[int]]]
    steps: int
    contests: list[dict[str, Any]]


class PatternSelection(Penalty):
    """Trains the candidates of ``kronfx.factorize(model, block=[(2, 2), (4, 4)])`` until one pattern is left.

    ::

        selection = PatternSelection(model, optimizer=optimizer)
        ...
        loss = task + selection.penalty()
        loss.backward()
        optimizer.step()
        selection.step()

    Pattern ``k`` is the ``k``-th block shape of every layer's list, so that all lists must be equally long.
    ``strength`` (``lambda2``) and ``group`` (``lambda1``) are numbers or schedules (the paper's are
    ``Stepped(0.01, add=0.002, every=5 * len(batches))`` both). ``penalty()`` carries the gradient of the group term and
    must be in the loss; ``step()`` shrinks every ``|S[p, j]|`` by ``lr strength``. All norms are about 1 at the start,
    less where layers start as zero. While more than one pattern is left ``group`` is multiplied by a factor that grows
    by ``growth - 1`` a step (twofold in 230) and starts over when one has gone. Where all patterns are collapsing, the
    strongest below a tenth of its first norm, it warns once and eases off instead of returning a model of zeros.

    A pattern that has lost is taken out of the model, its parameters out of the ``optimizer``, with their state. Once
    one is left, ``selected`` names it, the layers are ordinary factored ones, and ``step`` is the L1 term's alone; for
    a target sparsity go on with :class:`BlockSparsity`.

    Raises TrainError: no layer with candidates; lists of different lengths; a candidate whose ``S`` is frozen or in no
    group of the optimizer; a strength that is negative or not finite, a growth below 1; candidates that are all zero; a
    model wrapped for several processes; and, at any step of a choice, NaN or infinite factors.
    """

    def __init__(
        self,
        model: nn.Module,
        strength: float | Schedule = 0.01,
        group: float | Schedule = 0.01,
        optimizer: Stepper | None = None,
        growth: float = 1.003,
    ) -> None:
        require_module(model, TrainError)
        if not (is_number(growth) and 1 <= growth <= 2):
            raise TrainError("", f"growth={growth!r}", "a factor from 1 to 2", "try 1.003, or 1.0 for none")
        self.model = model
        self._strength, self._group = as_schedule("strength", strength), as_schedule("group", group)
        self._sites: dict[str, FactoredLayer] = _undecided(model)
        self._carries: dict[KroneckerLinear, Carry] = {}
        _require_candidates(model, self._sites)
        self._contests = [Contest(patterns, growth) for patterns in self._choices()]
        self._pace, self._steps = Pace(type(self).__name__, self._trained(), optimizer), 0
        self._seen, self._warned = list[Tensor](), False  # norms as the last penalty had them, contest by contest

    @property
    def selected(self) -> Selected | None:
        """The block shape ``(m2, n2)`` that is left, or, where layers differ, a mapping from sites to theirs; None
        while there is more than one somewhere."""
        if self._contests:
            return None
        blocks = {site: _block(candidates_of(layer)[0]) for site, layer in self._sites.items()}
        return next(iter(blocks.values())) if len(set(blocks.values())) == 1 else blocks

    @torch.no_grad()
    def norms(self) -> dict[str, float]:
        """The norm of every pattern still in a choice, by its name."""
        names = [self._name(pattern) for contest in self._contests for pattern in contest.patterns]
        return dict(zip(names, (norm for contest in self._contests for norm in contest.norms().tolist())))

    @property
    def strength(self) -> float:
        """``lambda2``, as it is now."""
        return self._strengths()[0]

    @torch.no_grad()
    def layers(self) -> dict[str, tuple[int, int]]:
        """``(zero blocks, blocks)`` of every site, of the candidates left all together."""
        parts = {site: [FactoredPart(site, x) for x in candidates_of(layer)] for site, layer in self._sites.items()}
        alive = {site: torch.cat([part.alive() for part in its_parts]) for site, its_parts in parts.items()}
        return {site: (mask.numel() - int(mask.sum()), mask.numel()) for site, mask in alive.items()}

    def penalty(self) -> Tensor:
        """Both terms, a scalar: the group term with its gradient, L1 without, since ``step`` brings that one down."""
        self._pace.asked()
        strength, group = self._strengths()
        l1 = strength * torch.stack([part.value() for part in self._parts().values()]).sum()
        norms = [contest.norms() for contest in self._contests]
        self._seen = [norm.detach() for norm in norms]
        return l1 + sum(group * c.scale * norm.sum().to(l1.device) for c, norm in zip(self._contests, norms))

    @torch.no_grad()
    def step(self) -> None:
        """L1's proximal step, and patterns that have lost are dropped. Call it after every ``optimizer.step()``."""
        taken = self._pace.due()
        if not taken:
            return
        self._pace.stepper()
        if self._contests and not self._seen:
            self._warn_without()
        losers = list(map(Contest.settle, self._contests, [norms.tolist() for norms in self._seen]))
        for contest, lost in zip(list(self._contests), losers):
            self._drop(contest, lost)
        strength, _ = self._strengths()
        for part, rate in zip(self._parts().values(), self._pace.rates()):
            part.shrink(min(rate * strength, MOST))
        self._steps, self._seen = self._steps + taken, []

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there; the patterns that are left are the model's own (``kronfx.save``). Raises TrainError where
        the state is none of :meth:`state_dict`'s, of other candidates, or of other choices between them (whole
        patterns, or layer by layer); nothing is changed then."""
        saved = SelectionState.from_dict(state)
        contests = [ContestState.from_dict(contest) for contest in saved.contests]
        layers, theirs = factored_sites(self.model), saved.sites
        mine = _signature({site: layer for site, layer in layers.items() if site in theirs or site in self._sites})
        for site in [*mine, *theirs]:
            if mine.get(site) != theirs.get(site):
                found = f"the saved state has {theirs.get(site, 'no such site')}, this model {mine.get(site, 'none')}"
                remedy = "load the model that was saved with it, then build the selection"
                raise TrainError(site, found, "the same candidates ([m1, n1, m2, n2, rank] each)", remedy)
        if [set(contest.units) for contest in contests] != [set(contest.units) for contest in self._contests]:
            remedy = "resume with the class that saved: PatternSelection or LayerwisePatternSelection"
            raise TrainError("", "a saved state of other choices", "the same patterns to choose between", remedy)
        self._sites = {site: layers[site] for site in theirs}
        self._pace.follow(self._trained())
        self._steps = saved.steps
        for contest, its_state in zip(self._contests, contests):
            contest.restore(its_state)

    def _state(self) -> SelectionState:
        contests = [contest.state().to_dict() for contest in self._contests]
        return SelectionState(sites=_signature(self._sites), steps=self._steps, contests=contests)

    def _choices(self) -> list[list[Pattern]]:
        """The patterns of every choice to be made: here one, between whole patterns."""
        candidates = {site: candidates_of(layer) for site, layer in self._sites.items()}
        (first, length), *others = ((site, len(layers)) for site, layers in candidates.items())
        for site, count in others:
            if count != length:
                remedy = "give every layer a list of the same length, or use LayerwisePatternSelection"
                raise TrainError(site, f"{count} candidates, and {length} at {first}", "one a pattern", remedy)
        return [[dict(zip(candidates, layers)) for layers in zip(*candidates.values())]]

    def _strengths(self) -> tuple[float, float]:
        """``lambda2`` and ``lambda1``, the latter before it grows."""
        return (
            value_at("strength", self._strength, self._steps),
            value_at("group", self._group, self._steps),
        )

    def _parts(self) -> dict[str, FactoredPart]:
        """Every candidate left, by a name of its own."""
        named = {
            f"{site}.{k}": layer
            for site, candidates in self._sites.items()
            for k, layer in enumerate(candidates_of(candidates))
        }
        carries = self._carries
        return {name: FactoredPart(name, x, carry=carries.setdefault(x, Carry())) for name, x in named.items()}

    def _trained(self) -> dict[str, nn.Parameter]:
        return {part.label: part.parameter for part in self._parts().values()}

    def _name(self, pattern: Pattern) -> str:
        """``"4x4"``, or ``"fc1 4x4, fc2 2x2"`` where the layers differ."""
        blocks = {site: "x".join(map(str, _block(layer))) for site, layer in pattern.items()}
        if len(set(blocks.values())) == 1 and len(blocks) == len(self._sites):
            return next(iter(blocks.values()))
        return ", ".join(f"{site} {block}" for site, block in blocks.items())

    def _warn_without(self) -> None:
        if not self._warned:
            self._warned = True
            text = "train: the group term is in no loss, so that no pattern can lose"
            warn(f"{text}; add selection.penalty() to the loss of every step")

    def _drop(self, contest: Contest, losers: Sequence[Pattern]) -> None:
        """Take the losers out of the contest, the model and the optimizer; a contest with one pattern left is over."""
        if not losers:
            return
        before = list(self.model.parameters())
        contest.drop(losers)
        for site in contest.units:
            candidates = self._sites[site]
            if isinstance(candidates, KroneckerCandidates):
                candidates.drop([loser[site] for loser in losers])
        if len(contest.patterns) == 1:
            self._contests.remove(contest)
        if isinstance(self.optimizer, Optimizer):
            forget(self.optimizer, before, list(self.model.parameters()))
        self._pace.follow(self._trained())


class LayerwisePatternSelection(PatternSelection):
    """Every layer selects a block shape of its own: the group term's groups are the candidates of a layer, and
    ``selected`` is a mapping from sites to blocks where they differ. Lists may have different lengths."""

    def _choices(self) -> list[list[Pattern]]:
        return [[{site: layer} for layer in candidates_of(layers)] for site, layers in self._sites.items()]


def _require_candidates(model: nn.Module, sites: dict[str, FactoredLayer]) -> None:
    if not sites:
        remedy = "list several blocks: kronfx.factorize(model, block=[(2, 2), (4, 4)])"
        raise TrainError("", "no layer of the model has candidates", "block shapes to choose between", remedy)
    if any(isinstance(module, DistributedDataParallel) for module in model.modules()):
        raise TrainError("", "a model wrapped by DistributedDataParallel", "parameters that may be dropped", ALONE)
    for site, layer in sites.items():
        for candidate in candidates_of(layer):
            if isinstance(candidate.S, DTensor):
                raise TrainError(site, "candidates in FSDP2's shards", "parameters that may be dropped", ALONE)
            if candidate.S.is_meta:
                raise TrainError(site, "candidates on the meta device", "values", "call to_empty() and load them first")
            if not candidate.S.requires_grad:
                remedy = "call S.requires_grad_() on it, or give this layer one block"
                raise TrainError(site, "S of a candidate is frozen", "candidates that train", remedy)


def _undecided(model: nn.Module) -> dict[str, FactoredLayer]:
    return {site: layer for site, layer in factored_sites(model).items() if isinstance(layer, KroneckerCandidates)}


def _signature(sites: dict[str, FactoredLayer]) -> dict[str, list[list[int]]]:
    return {
        site: [[x.grid.m1, x.grid.n1, x.grid.m2, x.grid.n2, x.rank] for x in candidates_of(layer)]
        for site, layer in sites.items()
    }


def _block(layer: KroneckerLinear) -> Block:
    """``(m2, n2)`` as it was wished for: a convolution's ``n2`` counts channels."""
    taps = math.prod(layer.convolution.kernel) if isinstance(layer, KroneckerConv) else 1
    return layer.grid.m2, layer.grid.n2 // taps
