"""Whatever Python a page or a docstring shows runs as it stands; README.md's does in test_readme.py."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from snippets import PAGES, ROOT, Snippet, fenced, indented, is_python
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from trainers import QUIET, Regression, batches, lightning_module, loader, rows, training_arguments

import kronfx as kx

World = dict[str, Any]
FENCES = {page: blocks for page in PAGES if (blocks := fenced(page, "python")) and page != ROOT / "README.md"}
DOCSTRINGS = [snippet for path in sorted((ROOT / "kronfx").rglob("*.py")) for snippet in indented(path)]
MOST_LEFT = 5  # snippets that take data or minutes


def dense(width: int = 24) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, width), nn.ReLU(), nn.Linear(width, 8))


def world(model: nn.Module) -> World:
    """What docstrings take for granted: a model in a user's training loop."""
    x = torch.randn(4, 16)
    task = model(x).square().mean()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    return {
        "kx": kx, "torch": torch, "model": model, "optimizer": optimizer, "example": x, "task": task, "loss": task,
        "batches": [x] * 10, "epochs": 2, "step": 1,
    }  # fmt: skip


def factored(_: Path) -> World:
    known = world(kx.factorize(dense(), rank=2, block=(4, 4)))
    penalty = kx.train.BlockSparsity(known["model"], strength=0.1, optimizer=known["optimizer"])
    return {**known, "sparsity": penalty, "penalty": penalty, "get_ema_multi_avg_fn": get_ema_multi_avg_fn}


def unfactored(_: Path) -> World:
    return world(dense())


def candidates(_: Path) -> World:
    known = world(kx.factorize(dense(), rank=1, block=[(2, 2), (4, 4)]))
    return {**known, "PatternSelection": kx.train.PatternSelection}


def in_transformers(folder: Path) -> World:
    trainer = pytest.importorskip("transformers").Trainer
    arguments = training_arguments(folder, max_steps=20, logging_steps=20, save_strategy="no")
    return {
        "kx": kx,
        "Trainer": trainer,
        "model": Regression(dense(256)),
        "arguments": arguments,
        "data": rows(batches(20)),
    }


def in_lightning(folder: Path) -> World:
    trainer = pytest.importorskip("lightning.pytorch").Trainer
    options = {"max_steps": 20, "default_root_dir": folder, "enable_checkpointing": False, **QUIET}
    module = lightning_module(dense(256), 0.01)
    return {"kx": kx, "Trainer": functools.partial(trainer, **options), "module": module, "data": loader(batches(20))}


# Where something else than a factored model is taken for granted.
WORLDS: dict[str, Callable[[Path], World]] = {
    "kronfx/__init__.py": unfactored,
    "kronfx/train/callbacks/lightning.py": in_lightning,
    "kronfx/train/callbacks/transformers.py": in_transformers,
    "kronfx/train/patterns/selection.py: PatternSelection": candidates,
    "kronfx/train/penalties/group_lasso.py: GroupLasso": unfactored,
    "kronfx/train/penalties/magnitude.py: MagnitudePruning": unfactored,
}


def run(snippet: Snippet, names: World) -> None:
    exec(compile(snippet.code, snippet.place, "exec"), names)  # the code is the repository's own


@pytest.mark.parametrize("page", FENCES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_blocks_of_a_page_run_one_after_the_other(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: World = {}
    for snippet in FENCES[page]:
        if not snippet.why:
            run(snippet, names)


@pytest.mark.parametrize("snippet", DOCSTRINGS, ids=lambda snippet: snippet.place)
@pytest.mark.filterwarnings("ignore:.*num_workers")
def test_a_docstrings_example_runs(snippet: Snippet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run(snippet, WORLDS.get(snippet.place, factored)(tmp_path))


def test_what_is_not_run_says_why_and_is_little() -> None:
    left = [snippet for page in PAGES for snippet in fenced(page, "python") if snippet.why]
    print(*(f"{snippet.place}: {snippet.why}" for snippet in left), sep="\n")
    assert len(left) <= MOST_LEFT
    assert not set(WORLDS) - {snippet.place for snippet in DOCSTRINGS}


def test_snippets_are_found_and_equations_are_none(tmp_path: Path) -> None:
    places = {snippet.place.rpartition(": ")[2] for snippet in DOCSTRINGS}
    assert {"kronfx/__init__.py", "BlockSparsity", "PatternSelection", "History", "apply_to"} <= places
    assert not is_python("W_p -= W_pj [Hi_jj]^-1 Hi_j,:      Hi -= Hi_:,j [Hi_jj]^-1 Hi_j,:")
    page = ROOT / ".docs" / "pages" / "looking.md"
    assert len(fenced(page, "python")) > 3
    assert all(not snippet.why for snippet in fenced(page, "python"))
    broken = Snippet("nowhere", "kx.no_such_name()")
    with pytest.raises(AttributeError, match="no_such_name"):
        run(broken, factored(tmp_path))
