"""The verbs that take a trained model and a few batches: each composes stages that do not know each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn
from typing_extensions import Unpack

from kronfx import compress, records
from kronfx.compress import Map, PruneKeywords, PruneOptions, RecoverKeywords, RecoverOptions
from kronfx.errors import PlanError, PruneError, RecoverError, said_by, warn
from kronfx.graph import discover, require_unshared
from kronfx.graph.swap import copied
from kronfx.layers import full_precision, require_module, require_values
from kronfx.options import keywords
from kronfx.planner.wishes import matching, selected
from kronfx.tables import abbreviated


@keywords(PruneOptions)
@full_precision()
def prune(model: nn.Module, batches: Iterable[Any], **wishes: Unpack[PruneKeywords]) -> Any:
    """Make whole blocks of a trained model's linear maps zero, chosen by what they do, and set the others anew.

    Of the inputs ``x [n]`` of every map, seen while the model runs the ``batches``, ``H = E[x x^T]``; of the gradients
    ``g [m]`` of its outputs ``G = E[g g^T]``. Taking block ``(p, j)`` out of ``W [m, n]`` while all others of its row
    are set anew costs ``tr(W_pj [(H^-1)_jj]^-1 W_pj^T G_pp)``; the cheapest goes, row by row (optimal brain surgeon),
    and of all maps the cheapest steps until the target is reached. Then ``W_p`` on its survivors ``a`` is the least
    squares fit ``(W H)_p,a [H_aa]^-1`` to the outputs it had, and the bias takes the mean; ``refit="prefix"`` fits it
    to the trained model's outputs once more, from what the pruned maps before it hand it. No step of training.

    ``batches`` are what the model is called with (tensors, tuples of arguments, dicts of keyword arguments) or, with a
    ``loss``, what that takes; a few dozen are enough, and they are kept in memory, for they are run more than once. The
    model runs in evaluation mode; a copy is what is run and what comes back, one for each target: the model passed in
    is left as it is. Its pruned maps are what ``kronfx.fold`` makes, their zeros exact: export, save or inspect them
    like any folded layer. A frozen layer is pruned like any other, and stays frozen. What was done, and why a map was
    left alone, is in ``kronfx.inspect(result)``. Blocks that are zero stay zero, and count.

    Takes ``8 n^2`` bytes a map for the sums, at most ``memory`` at once (and one map at least). While one map is ranked
    or set anew, its sums included, it takes at most ``40 n^2 + 56 m n`` bytes and 256 MB: 7.7 GB where ``W`` is
    4096x11008. The prefix also keeps the outputs of finished modules for all batches. What feeds a map of which nothing
    is left goes with it, before what is read.
    Raises PruneError.
    """
    require_module(model, PruneError)
    require_unshared(model, PruneError)
    require_values(model, PruneError)
    options = PruneOptions(**wishes)
    kept = compress.listed(batches)
    running = copied(model, PruneError)
    maps, refusals = _maps(running, options)
    copies = [_copy(running, target, options) for target in options.targets]
    for copy, done in zip(copies, compress.prune(running, maps, kept, options, copies)):
        vars(copy.model)[records.PRUNED] = replace(done, refusals=(*done.refusals, *refusals))
        if done.emptied:
            left = f"kronfx.prune at {done.target} leaves nothing of {abbreviated(done.emptied)}"
            warn(f"{left}: constant outputs now; floor= keeps a share of every map")
        if done.ahead:
            warn(f"kronfx.prune at {done.target}: {abbreviated(done.ahead)} had more zero blocks; they stay zero")
    pruned = [copy.model for copy in copies]
    return pruned if isinstance(options.target, Sequence) else pruned[0]


@keywords(RecoverOptions)
@full_precision()
def recover(
    model: nn.Module, teacher: nn.Module | None, batches: Iterable[Any], **wishes: Unpack[RecoverKeywords]
) -> nn.Module:
    """Train a pruned model for a few steps, its zero blocks kept exactly zero: what ``kx.prune`` took is won back.

    ``teacher`` is the model before it was pruned, whose outputs are learned: no labels are needed. ``batches`` are what
    both are called with (tensors, tuples of arguments, dicts of keyword arguments), or with a ``loss`` what that takes;
    others than those a result is judged by. A copy is trained, in the mode the model is in, and comes back; the model
    and the teacher are left as they are. Zeros of ``S`` in factored layers are kept as well. Raises RecoverError.
    """
    require_module(model, RecoverError)
    require_values(model, RecoverError)
    options = RecoverOptions(**wishes)
    if options.loss is None:
        require_module(teacher, RecoverError)
    with said_by(RecoverError, PruneError):
        kept = compress.listed(batches)
        student = copied(model, RecoverError)
        compress.recover(student, teacher, kept, options)
    return student


def _copy(running: nn.Module, target: float | Mapping[str, float], options: PruneOptions) -> compress.Copy:
    copy = copied(running, PruneError)
    maps, _ = _maps(copy, options)
    shares = _by_name(target, [subject.site.name for subject in maps]) if isinstance(target, Mapping) else target
    return compress.Copy(copy, maps, shares)


def _maps(model: nn.Module, options: PruneOptions) -> tuple[list[Map], list[records.Refusal]]:
    """The maps that are to be pruned, and those that are wanted and cannot be. Raises PruneError."""
    found = discover(model)
    types = {match.site.name: type(match.owner) for match in found.matches}
    names = [match.site.name for match in found.matches]
    with said_by(PruneError, PlanError):
        wanted = selected(found.sites, types, options.include, options.exclude)
    if isinstance(options.target, Mapping):
        wanted &= _by_name(options.target, names).keys()
    maps, refusals = [], []
    for match in found.matches:
        if match.site.name in wanted:
            grid = _grid(match.site, options.block)
            if grid is None:
                reason = f"smaller than one block of {options.block[0]}x{options.block[1]}"
                refusals.append(records.Refusal(match.site.name, match.site.kind, (match.site.m, match.site.n), reason))
            else:
                maps.append(Map(match.site, match.owner, match.target, grid, match.transposed, match.convolution))
    if not maps:
        reasons = {refusal.reason for refusal in (*refusals, *found.refusals)} or {"it has no weight of two dimensions"}
        needed = "one linear map at least that can be pruned"
        raise PruneError("", f"nothing to prune: {'; '.join(sorted(reasons))}", needed, "see kronfx.inspect(model)")
    return maps, refusals


def _grid(site: records.Site, block: tuple[int, int]) -> records.KroneckerShape | None:
    """The blocks of a site, the last of which may reach beyond it; None where one block is more than the site."""
    m2, channels = block
    if site.m < m2 or site.channels < channels:
        return None
    return records.KroneckerShape(-(-site.m // m2), -(-site.channels // channels), m2, channels * site.taps)


def _by_name(target: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    """The share of every map that has one: an exact name outweighs a glob, else the last one counts."""
    with said_by(PruneError, PlanError):
        globs = {name: share for wish, share in target.items() for name in matching("target", wish, names)}
    return globs | {name: target[name] for name in names if name in target}
