"""Which weights of a dense model must be rewritten: read off the model alone, without asking kronfx."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from torch import Tensor, nn

import kronfx as kx
from kronfx.records import Refusal


@dataclass(frozen=True)
class Coverage:
    """What became of the weights of two or more dimensions.

    ``entries`` counts the entries of all untied weights that must be rewritten, ``rewritten`` those that were;
    ``missed`` are the paths of the others, ``silent`` the paths left as they are without a reason.
    """

    entries: int
    rewritten: int
    missed: tuple[str, ...]
    silent: tuple[str, ...]
    refusals: tuple[Refusal, ...]

    @property
    def share(self) -> float:
        """1.0 where everything that must be rewritten was; also where there is nothing."""
        return self.rewritten / self.entries if self.entries else 1.0

    @property
    def reasons(self) -> dict[str, int]:
        """How many weights were refused for each reason, the names of other weights left out of it."""
        return dict(Counter(f"{r.kind}: {re.sub(r'tied to [^:]*', 'tied', r.reason)}" for r in self.refusals))


def cover(dense: nn.Module, factored: nn.Module, plan: kx.Plan) -> Coverage:
    """Hold a plan and the model it made against the dense model.

    A weight counts as rewritten where the plan says so and its parameter is gone from the factored model.
    """
    left = {path for path, _ in factored.named_parameters(remove_duplicate=False)}
    chosen = [choice.site.name for choice in plan.choices]
    gone = {path for path in matrices(dense) if path not in left and any(serves(name, path) for name in chosen)}
    must = {path: weight for path, weight in linear_maps(dense).items() if path not in tied(dense)}
    refused = {refusal.site for refusal in plan.refusals if refusal.reason}
    return Coverage(
        entries=sum(weight.numel() for weight in must.values()),
        rewritten=sum(weight.numel() for path, weight in must.items() if path in gone),
        missed=tuple(path for path in must if path not in gone),
        silent=tuple(path for path in matrices(dense) if path not in gone and site(path) not in refused),
        refusals=plan.refusals,
    )


def site(path: str) -> str:
    """The name kronfx gives to the site of a weight: its path without a closing ``.weight``."""
    return path.removesuffix(".weight")


def serves(name: str, path: str) -> bool:
    """Whether the site of that name holds (a part of) the weight at that path."""
    return name == site(path) or name.startswith(f"{site(path)}.")


def matrices(model: nn.Module) -> dict[str, Tensor]:
    """Every weight of two or more dimensions by its path; a tied one under each of its modules."""
    return {path: weight for path, (_, _, weight) in _weights(model).items()}


def tied(model: nn.Module) -> set[str]:
    """Paths of the weights that two different modules hold."""
    uses = Counter(weight.data_ptr() for weight in matrices(model).values())
    return {path for path, weight in matrices(model).items() if uses[weight.data_ptr()] > 1}


def linear_maps(model: nn.Module) -> dict[str, Tensor]:
    """Every weight that is a linear map whatever its owner's forward: the ones kronfx promises to rewrite."""
    return {
        path: weight for path, (owner, name, weight) in _weights(model).items() if _is_linear_map(owner, name, weight)
    }


def _weights(model: nn.Module) -> dict[str, tuple[nn.Module, str, Tensor]]:
    """Path -> owner, the weight's name in it, the weight; a module that is shared counts once."""
    return {
        f"{prefix}.{name}".removeprefix("."): (module, name, parameter)
        for prefix, module in model.named_modules()
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.ndim >= 2
    }


def _is_linear_map(owner: nn.Module, name: str, weight: Tensor) -> bool:
    if isinstance(owner, nn.MultiheadAttention):
        return name in {"in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"}
    if weight.ndim == 3:  # one matrix an expert; position embeddings and kernels are three-dimensional as well
        return getattr(owner, "num_experts", None) == weight.shape[0]
    is_linear = isinstance(owner, nn.Linear) or type(owner).__name__ == "Conv1D"
    return is_linear and name == "weight" and weight.ndim == 2
