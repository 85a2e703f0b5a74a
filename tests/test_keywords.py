"""The options of the verbs: signature, documentation, static types and checks all come from one dataclass."""

from __future__ import annotations

import inspect
import pydoc
import re
from collections.abc import Callable
from dataclasses import FrozenInstanceError, dataclass, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import kronfx as kx
from kronfx.compress import PruneKeywords, PruneOptions, RecoverKeywords, RecoverOptions
from kronfx.deploy.bench import bench
from kronfx.deploy.options import (
    BenchKeywords,
    BenchOptions,
    ExportKeywords,
    ExportOptions,
    SparsifyKeywords,
    SparsifyOptions,
)
from kronfx.options import about, keywords, option, settle
from kronfx.planner import PlanKeywords, PlanOptions
from kronfx.solver import SolveKeywords, SolveOptions

VERBS: dict[Callable[..., Any], tuple[type, type, list[str]]] = {
    kx.plan: (PlanOptions, PlanKeywords, ["model", "batches"]),
    kx.factorize: (PlanOptions, PlanKeywords, ["model", "plan", "init", "batches", "inplace", "tune"]),
    kx.prune: (PruneOptions, PruneKeywords, ["model", "batches"]),
    kx.recover: (RecoverOptions, RecoverKeywords, ["model", "teacher", "batches"]),
    kx.export_onnx: (ExportOptions, ExportKeywords, ["model", "path", "example_inputs"]),
    kx.sparsify_onnx: (SparsifyOptions, SparsifyKeywords, ["src", "dst"]),
    bench: (BenchOptions, BenchKeywords, ["path"]),
    kx.solve: (SolveOptions, SolveKeywords, ["out_features", "in_features"]),
}
CASES = [pytest.param(verb, *case, id=verb.__name__) for verb, case in VERBS.items()]


@pytest.mark.parametrize(("verb", "options", "_typed", "own"), CASES)
def test_the_signature_is_the_fields(verb: Callable[..., Any], options: type, _typed: type, own: list[str]) -> None:
    parameters = inspect.signature(verb).parameters
    assert list(parameters)[: len(own)] == own
    theirs = {name: one for name, one in parameters.items() if name not in own}
    assert {name: one.default for name, one in theirs.items()} == {f.name: f.default for f in fields(options)}
    assert {one.kind for one in theirs.values()} == {inspect.Parameter.KEYWORD_ONLY}
    assert {name: one.annotation for name, one in theirs.items()} == get_type_hints(options)


@pytest.mark.parametrize(("verb", "options", "_typed", "_own"), CASES)
def test_help_lists_each_option_once_with_default_and_unit(
    verb: Callable[..., Any], options: type, _typed: type, _own: list[str]
) -> None:
    text = pydoc.plain(pydoc.render_doc(verb))
    entries = re.findall(r"^ *- ``(\w+)=(.*?)`` \[", text, re.MULTILINE)
    assert sorted(entries) == sorted((f.name, repr(f.default)) for f in fields(options))
    flat = " ".join(text.split())
    for field in fields(options):
        said = about(field)
        assert said.unit
        assert said.doc
        assert flat.count(f"- ``{field.name}={field.default!r}`` [{said.unit}]: {said.doc}") == 1, field.name


@pytest.mark.parametrize(("_verb", "options", "typed", "_own"), CASES)
def test_static_checkers_see_the_same_names_and_types(
    _verb: Callable[..., Any], options: type, typed: type, _own: list[str]
) -> None:
    assert get_type_hints(typed) == get_type_hints(options)


def test_help_keeps_what_the_verb_itself_says() -> None:
    assert "Raises PlanError." in (inspect.getdoc(kx.plan) or "")
    assert "what each map becomes:" in (inspect.getdoc(kx.plan) or "").lower()
    assert 'init="nearest"' in (inspect.getdoc(kx.factorize) or "")


CALLS: dict[str, Callable[..., Any]] = {
    "plan": lambda **wishes: kx.plan(nn.Linear(4, 4), **wishes),
    "factorize": lambda **wishes: kx.factorize(nn.Linear(4, 4), **wishes),
    "export": lambda **wishes: kx.export_onnx(nn.Linear(4, 4), "nowhere/model.onnx", torch.ones(1, 4), **wishes),
    "sparsify": lambda **wishes: kx.sparsify_onnx("nowhere/from.onnx", "nowhere/to.onnx", **wishes),
}


@pytest.mark.parametrize("verb", CALLS)
def test_an_unknown_keyword_is_named(verb: str) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        CALLS[verb](colour=3)


@pytest.mark.parametrize(
    ("verb", "wishes", "sentence"),
    [
        ("plan", {"rows": 0}, "plan: rows=0; needed a positive number of rows; "),
        ("plan", {"rank": {"fc": 0}}, "plan: rank=0; needed a positive integer or 'full'; "),
        ("plan", {"block": [(4, 4), (8,)]}, r"plan: block=\(8,\); needed a pair \(m2, n2\)"),
        ("plan", {"multiple_of": 2.0}, "plan: multiple_of=2.0; needed a positive integer or a pair"),
        ("plan", {"padding": 2}, "plan: padding=2; needed a share from 0 to 1; "),
        ("plan", {"objective": ["params"]}, r"plan: objective=\['params'\]; needed one of 'params', "),
        ("plan", {"overrides": {"": {"rank": None}}}, "plan: rank=None; needed a positive integer or 'full'"),
        ("plan", {"overrides": {"": {"rows": 3}}}, "plan: overrides has the option 'rows'; needed rank, block, "),
        ("plan", {"rates": "fast"}, "plan: rates of type str; needed kronfx Rates; "),
        ("plan", {"max_params": 1.5}, r"plan: max_params=1.5; needed a ratio in \(0, 1\] as a float, or a count"),
        ("factorize", {"max_flops": True}, "plan: max_flops=True; needed a ratio"),
        ("export", {"lowering": "sparse"}, "export: lowering='sparse'; needed one of 'auto', 'dense', "),
        ("export", {"batch_sizes": ()}, r"export: batch_sizes=\(\); needed one or more positive integers; "),
        ("export", {"timings": 3}, "export: timings of type int; needed a Timings value"),
        ("sparsify", {"block": (0, 4)}, r"export: block=\(0, 4\); needed two positive integers \(m2, n2\)"),
        ("sparsify", {"rows": "1"}, "export: rows='1'; needed one or more positive integers; "),
        ("sparsify", {"optimize_for": "speed"}, "export: optimize_for='speed'; needed 'latency' or 'size'; "),
    ],
)
def test_a_check_that_fails_is_a_sentence(verb: str, wishes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(kx.KronfxError, match=f"^{sentence}"):
        CALLS[verb](**wishes)


def test_options_are_checked_before_anything_is_looked_at(tmp_path: Path) -> None:
    with pytest.raises(kx.KronfxError, match=r"rows=\(0,\)"):
        kx.sparsify_onnx(tmp_path / "missing.onnx", tmp_path / "out.onnx", rows=0)  # type: ignore[arg-type]


BLOCK = st.tuples(st.integers(1, 64), st.integers(1, 64))


@given(
    block=BLOCK | st.lists(BLOCK, min_size=1) | st.dictionaries(st.text(), BLOCK),
    rank=st.none() | st.integers(1, 9) | st.just("full") | st.dictionaries(st.text(), st.integers(1, 9)),
    pair=st.none() | st.integers(1, 64) | BLOCK | BLOCK.map(list),
    rows=st.integers(1, 1000),
)
def test_checked_options_are_checked_options(block: Any, rank: Any, pair: Any, rows: int) -> None:
    options = PlanOptions(block=block, rank=rank, min_block=pair, overrides={"fc": {"multiple_of": pair}}, rows=rows)
    assert replace(options) == options
    deployed = SparsifyOptions(rows=rows, batch_sizes=[rows, rows])  # type: ignore[arg-type]
    assert (deployed.rows, deployed.batch_sizes) == ((rows,), (rows,))
    assert replace(deployed) == deployed


def test_options_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        PlanOptions().rows = 3  # type: ignore[misc]


@dataclass(frozen=True)
class Toy:
    """Three options."""

    size: int = option(3, "pixels", "how  many", lambda _, value: int(value), heading="What is drawn")
    colour: str = option("red", "a name", "which one.")
    dry: bool = option(False, "yes or no", "draw nothing.")

    def __post_init__(self) -> None:
        settle(self)


def test_the_keywords_of_any_verb() -> None:
    @keywords(Toy, first=("dry", "size"))
    def draw(_canvas: str, **wishes: Any) -> Toy:
        """Draw."""
        return Toy(**wishes)

    assert str(inspect.signature(draw)) == (
        "(_canvas: 'str', *, dry: bool = False, size: int = 3, colour: str = 'red') -> 'Toy'"
    )
    assert draw("here", size="7") == Toy(size=7)
    assert draw.__doc__ == (
        "Draw.\n\n- ``dry=False`` [yes or no]: draw nothing.\n\nWhat is drawn:\n\n- ``size=3`` [pixels]: how many\n"
        "- ``colour='red'`` [a name]: which one."
    )
