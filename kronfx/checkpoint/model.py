"""A model -> what a checkpoint holds of it, and back onto a freshly built one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from kronfx.checkpoint.folder import FoldedGrid, Saved, destination, few, read_folder, write_folder
from kronfx.checkpoint.former import in_todays_names
from kronfx.errors import CheckpointError, KronfxError
from kronfx.files import PathLike
from kronfx.graph import factorize, fold_sites, require_unshared
from kronfx.graph.fold import graphs, subgraphs
from kronfx.layers import (
    KroneckerConv,
    KroneckerLinear,
    candidates_of,
    factored_sites,
    folded_layers,
    full_precision,
    kronecker_layers,
    require_module,
    user_name,
)
from kronfx.progress import bar
from kronfx.records import Choice, Plan, Site


@full_precision()
def save(model: nn.Module, folder: PathLike) -> Path:
    """Write a factored, folded or untouched model's ``state_dict`` and what was rewritten; returns the folder.

    The folder appears whole or not at all: a checkpoint that is there already is replaced once the new one is complete,
    anything else that is there is left alone. Raises CheckpointError.
    """
    require_module(model, CheckpointError)
    if any(subgraphs(graph) for graph in graphs(model)):
        found = "a graph that spells the factors out"
        raise CheckpointError("", found, "factored layers", "save the model that kronfx.graph was given")
    target, state = destination(folder), _state(model)
    with bar("saving", len(state) + 1) as begin:
        tensors, tied = _tensors(state, begin)
        folded = folded_layers(model).items()
        grids = {name: FoldedGrid(W.weight.shape[-2], W.weight.shape[-1], W.shape) for name, W in folded}
        begin(f"writing {target.name}")
        write_folder(target, Saved(_plan(model), grids, tied, tensors))
    return target


@full_precision()
def load(model: nn.Module, folder: PathLike) -> nn.Module:
    """The saved model: a freshly built dense ``model`` of its class, rewritten as the saved one was, its values in.

    Strict: every name and shape must be there on both sides. ``model`` is left untouched and decides about dtype and
    device, as in ``load_state_dict``; on the meta device it costs no memory and the result is on the CPU. Ties are the
    saved model's; mode, hooks and ``requires_grad`` are ``model``'s. Raises CheckpointError.
    """
    require_module(model, CheckpointError)
    require_unshared(model, CheckpointError)
    with bar("loading", 3) as begin:
        begin("reading the tensors")
        saved = read_folder(Path(folder))
        begin("rewriting the model")
        loaded = _rewritten(model, saved)
        begin("putting the tensors in")
        _fill(loaded, saved)
    return loaded


def _plan(model: nn.Module) -> Plan:
    """The plan that makes a dense model's sites the factored layers of this one."""
    layers = [(name, part) for name, site in factored_sites(model).items() for part in candidates_of(site)]
    return Plan(
        tuple(
            Choice(site=_site(name, layer), shape=layer.grid, rank=layer.rank, evaluation=layer.evaluation)
            for name, layer in layers
        )
    )


def _site(name: str, layer: KroneckerLinear) -> Site:
    kernel = layer.convolution.kernel if isinstance(layer, KroneckerConv) else ()
    kind = f"KroneckerConv {'x'.join(map(str, kernel))}" if kernel else "KroneckerLinear"
    dtype = str(layer.S.dtype).removeprefix("torch.")
    stack, taps = math.prod(layer.stack), math.prod(kernel)
    return Site(name=name, kind=kind, m=layer.out_features, n=layer.in_features, dtype=dtype, stack=stack, taps=taps)


def _tensors(state: Mapping[str, Tensor], begin: Callable[[str], None]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Every tensor of the ``state_dict`` once, ready to be written, and the other names of those that have several."""
    kept: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    first: dict[object, str] = {}
    storages: set[int] = set()
    for name, value in state.items():
        begin(name)
        _require_storable(name, value)
        root = first.setdefault(_identity(value), name)
        if root != name:
            tied[name] = root
            continue
        tensor = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
        storage = tensor.untyped_storage()
        if storage.data_ptr() in storages or storage.nbytes() != tensor.nbytes:  # a view of what others see too
            tensor = tensor.clone()
        storages.add(storage.data_ptr())
        kept[name] = tensor
    return kept, tied


def _state(model: nn.Module) -> dict[str, Tensor]:
    """The ``state_dict`` by the user's names, whatever wraps the model."""
    return {user_name(model, path): value for path, value in model.state_dict(keep_vars=True).items()}


def _identity(value: Tensor) -> object:
    """Equal for two names of one tensor: what has no address (meta, empty) is known by the object it is."""
    return value.data_ptr() or id(value), value.device, value.dtype, value.shape, value.stride()


def _require_storable(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        found, remedy = f"an entry of type {type(value).__name__} in the state_dict", "keep it elsewhere: no pickling"
    elif nn.parameter.is_lazy(value):
        found, remedy = "an uninitialized parameter", "run one forward pass first"
    elif value.is_meta:
        found, remedy = "a tensor on the meta device", "load the weights before saving"
    elif type(value.detach()) is not Tensor or value.layout is not torch.strided:
        kind = type(value.detach()).__name__
        found, remedy = f"a {kind} of layout {value.layout}", "gather or convert it to a plain dense tensor first"
    else:
        return
    raise CheckpointError(name, found, "plain tensors with values", remedy)


def _rewritten(model: nn.Module, saved: Saved) -> nn.Module:
    """A copy of the dense model with the layers of the saved one, their values still to come."""
    remedy = "build the model as the saved one was built, dense"
    already = kronecker_layers(model)
    if already:
        raise CheckpointError("", f"a model that is factored already ({few(already)})", "a dense model", remedy)
    folded = (
        Choice(site=Site(name=name, kind="folded", m=g.m, n=g.n), shape=g.shape, rank=1, evaluation="materialize")
        for name, g in saved.grids.items()
    )
    try:
        rewritten = factorize(model, replace(saved.plan, choices=(*saved.plan.choices, *folded)), "random", False)
        _require_kinds(rewritten, saved.plan)
        for name, layer in kronecker_layers(rewritten).items():
            if name in saved.grids and layer.S.is_meta:
                layer.to_empty(device="cpu").reset_factors()
        return fold_sites(rewritten, saved.grids.keys())
    except CheckpointError:
        raise
    except KronfxError as error:
        raise CheckpointError(error.where, error.found, error.needed, remedy) from error


def _require_kinds(rewritten: nn.Module, plan: Plan) -> None:
    """The factors of a 3x3 and of a 1x9 convolution have one shape: the kernel is told by the kind."""
    kinds = {choice.site.name: choice.site.kind for choice in _plan(rewritten).choices}
    for site in (choice.site for choice in plan.choices):
        if kinds[site.name] != site.kind:
            found = f"this model makes it a {kinds[site.name]}"
            raise CheckpointError(site.label, found, f"the saved {site.kind}", "build the model as it was saved")


def _fill(model: nn.Module, saved: Saved) -> None:
    """The saved values into the rewritten model, all of them and nothing else."""
    saved = in_todays_names(saved, model)
    wanted = _state(model)
    wrong = list(_mismatches(wanted, saved))
    if wrong:
        remedy = "build the model as it was when it was saved"
        raise CheckpointError("", "; ".join(wrong), "the saved model's names and shapes", remedy)
    unborn = any(value.is_meta for value in wanted.values())
    values = {name: saved.tensors[saved.root(name)] for name in wanted}
    if unborn:  # memory of its own: where a file's tensors start is not where fast kernels want them
        values = {name: value.to(wanted[name].dtype, copy=True) for name, value in values.items()}
    model.load_state_dict({path: values[user_name(model, path)] for path in model.state_dict()}, assign=unborn)
    _tie(model, saved.tied)
    held = (*model.named_parameters(), *model.named_buffers())
    left = [name for name, value in held if value.is_meta]
    if left:
        found = f"{few(left)}: on the meta device and not in the checkpoint"
        raise CheckpointError("", found, "values for what a state_dict does not keep", "build the model off meta")


def _mismatches(wanted: Mapping[str, Tensor], saved: Saved) -> Iterator[str]:
    """Everything that keeps the saved tensors from being this model's, in words."""
    names = {*saved.tensors, *saved.tied}
    missing, unexpected = [n for n in wanted if n not in names], sorted(names - set(wanted))
    if missing:
        yield f"the checkpoint lacks {few(missing)}"
    if unexpected:
        yield f"this model lacks {few(unexpected)}"
    roots: dict[object, tuple[str, str]] = {}
    for name in (name for name in wanted if name in names):
        ours, theirs = wanted[name], saved.tensors[saved.root(name)]
        if nn.parameter.is_lazy(ours):
            yield f"{name} is uninitialized in this model"
            continue
        if ours.shape != theirs.shape:
            yield f"{name} is {_dims(theirs)} in the checkpoint and {_dims(ours)} in this model"
        elif not torch.can_cast(theirs.dtype, ours.dtype):
            yield f"{name} is {theirs.dtype} in the checkpoint and {ours.dtype} in this model"
        other, root = roots.setdefault(_identity(ours), (name, saved.root(name)))
        if root != saved.root(name):
            yield f"{other} and {name} are two tensors in the checkpoint and one in this model"


def _tie(model: nn.Module, tied: Mapping[str, str]) -> None:
    """One tensor under all its names, where the class itself has not seen to it."""
    for named in (model.named_parameters, model.named_buffers):
        held = {user_name(model, path): (path, value) for path, value in named(remove_duplicate=False)}
        for name, root in tied.items():
            if name in held and root in held and _identity(held[name][1]) != _identity(held[root][1]):
                holder, _, attribute = held[name][0].rpartition(".")
                setattr(model.get_submodule(holder), attribute, held[root][1])


def _dims(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "a scalar"
