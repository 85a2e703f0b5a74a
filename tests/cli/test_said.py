"""Every keyword of a verb is an option of its command, the other way round too, and what is said is what is meant."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shell import kronfx, sentence

import kronfx as kx
from kronfx.cli import VERBS
from kronfx.cli.said import said
from kronfx.deploy.bench import bench
from kronfx.deploy.options import BenchOptions, SparsifyOptions
from kronfx.options import about
from kronfx.planner import PlanOptions
from kronfx.solver import SolveOptions

# The verb of the library behind each command that has options.
LIBRARY: dict[str, Callable[..., Any]] = {
    "sparsify": kx.sparsify_onnx,
    "plan": kx.plan,
    "solve": kx.solve,
    "bench": bench,
}
# What the command has besides, and keywords that no shell can say, with the reason.
OWN = {"inspect": {"html"}, "sparsify": {"report"}, "plan": {"out"}}
UNSAID = {("plan", "batches"): "what a model is called with, many times over: code makes it, and no file of one form"}
COMMON = {"json", "debug", "help"}


def flags(verb: str) -> set[str]:
    """The options of a command, as its help lists them."""
    lines = re.findall(r"^  (-[^ ].*?)(?:  |$)", kronfx(verb, "--help").out, re.MULTILINE)
    named = [re.findall(r"--([a-z-]+)", line) for line in lines]
    return {names[0].replace("-", "_") for names in named if names}


def keywords(verb: str) -> set[str]:
    """The options of the verb behind it."""
    parameters = inspect.signature(LIBRARY[verb]).parameters.values()
    return {one.name for one in parameters if one.kind is inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize("verb", LIBRARY)
def test_every_keyword_is_an_option_and_every_option_a_keyword(verb: str) -> None:
    unsaid = {name for command, name in UNSAID if command == verb}
    assert flags(verb) == (keywords(verb) - unsaid) | OWN.get(verb, set()) | COMMON


@pytest.mark.parametrize(("verb", "kind"), [(verb.__name__, kind) for verb, kind in VERBS.items() if kind])
def test_help_says_what_the_library_says(verb: str, kind: type) -> None:
    text = " ".join(kronfx(verb, "--help").out.split())
    for field in fields(kind):
        words = " ".join(about(field).doc.replace("``", "").split())
        assert words.split(".")[0].replace("- ", "-") in text.replace("- ", "-"), field.name
    assert "Default: " in text


CASES: list[tuple[type, str, Sequence[str], object]] = [
    (PlanOptions, "rank", ["4"], 4),
    (PlanOptions, "rank", ["full"], "full"),
    (PlanOptions, "rank", ["fc*=8", "head=full"], {"fc*": 8, "head": "full"}),
    (PlanOptions, "block", ["16x32"], (16, 32)),
    (PlanOptions, "block", ["4x4,8x8"], [(4, 4), (8, 8)]),
    (PlanOptions, "block", ["a=b=4x4"], {"a=b": (4, 4)}),
    (PlanOptions, "min_block", ["16x"], (16, None)),
    (PlanOptions, "max_block", ["x32"], (None, 32)),
    (PlanOptions, "multiple_of", ["8"], 8),
    (PlanOptions, "padding", ["0.02"], 0.02),
    (PlanOptions, "overrides", ['{"fc": {"rank": 8}}'], {"fc": {"rank": 8}}),
    (PlanOptions, "rows", ["64", "128"], 128),
    (PlanOptions, "include", ["fc*", "head"], ["fc*", "head"]),
    (PlanOptions, "zero_start", ["none"], None),
    (PlanOptions, "zero_start", ["residual"], "residual"),
    (PlanOptions, "zero_start", ["*.out"], ["*.out"]),
    (PlanOptions, "max_params", ["0.2"], 0.2),
    (PlanOptions, "max_params", ["1.0"], 1.0),
    (PlanOptions, "max_flops", ["120000"], 120_000),
    (SolveOptions, "objective", ["flops"], "flops"),
    (SparsifyOptions, "lowering", ["blocks"], "blocks"),
    (SparsifyOptions, "rows", ["1,128"], (1, 128)),
    (SparsifyOptions, "block", ["32x16"], (32, 16)),
    (BenchOptions, "rows", ["1,128,8x128"], (1, 128, (8, 128))),
    (SparsifyOptions, "timings", ["t.json"], "t.json"),
]


@pytest.mark.parametrize(("kind", "name", "texts", "value"), CASES, ids=lambda case: str(case)[:20])
def test_what_is_said_is_what_is_meant(kind: type, name: str, texts: Sequence[str], value: object) -> None:
    row = said(get_type_hints(kind)[name])
    assert row is not None
    read = row.read(texts)
    assert (read, type(read)) == (value, type(value))


@given(st.lists(st.tuples(st.integers(1, 99), st.integers(1, 99)), min_size=2))
def test_blocks_read_as_they_are_written(blocks: list[tuple[int, int]]) -> None:
    row = said(get_type_hints(PlanOptions)["block"])
    assert row is not None
    assert row.read([",".join(f"{m2}x{n2}" for m2, n2 in blocks)]) == blocks


def test_files_hold_what_a_word_cannot(tmp_path: Path) -> None:
    rates, arrays = kx.Rates(1, 2, 3), {"x": np.arange(6.0).reshape(2, 3)}
    (tmp_path / "rates.json").write_text(rates.to_json())
    np.savez(tmp_path / "x.npz", **arrays)
    hints = get_type_hints(SolveOptions) | get_type_hints(SparsifyOptions)
    rows = said(hints["rates"]), said(hints["example_inputs"])
    assert rows[0] is not None
    assert rows[0].read([str(tmp_path / "rates.json")]) == rates
    assert rows[1] is not None
    read = rows[1].read([str(tmp_path / "x.npz")])
    assert isinstance(read, Mapping)
    assert list(read) == ["x"]
    assert np.array_equal(read["x"], arrays["x"])


WRONG = [
    (["solve", "8", "8", "--rank", "x"], "'x' is no whole number; write N"),
    (["solve", "8", "8", "--block", "3xy"], "'y' is no whole number; write M2xN2|N"),
    (["solve", "8", "8", "--padding", "much"], "'much' is no number"),
    (["solve", "8", "8", "--rates", "nowhere.json"], "No such file or directory; write FILE.json"),
    (["sparsify", "a", "b", "--example-inputs", __file__], "is no .npz file; write FILE.npz"),
    (["plan", "torch:nn", "--overrides", "{"], "is no JSON"),
    (["plan", "torch:nn", "--rank", "4", "--rank", "fc=8"], "4 and fc=8 are one value for all and others by name"),
    (["solve", "8"], "Missing argument 'IN_FEATURES'"),
    (["solve", "8", "8", "--colour", "3"], "No such option"),
    (["paint"], "No such command 'paint'"),
]


@pytest.mark.parametrize(("words", "found"), WRONG, ids=lambda case: str(case)[-30:])
def test_wrong_usage_is_told_with_exit_code_2(words: list[str], found: str) -> None:
    answer = kronfx(*words)
    assert (answer.code, answer.out) == (2, "")
    assert found in answer.err.splitlines()[-1]


def test_a_value_that_the_library_refuses_is_wrong_usage_too() -> None:
    assert sentence(kronfx("solve", 8, 8, "--rank", 0), 2).startswith("solve: rank is 0; needed a positive integer; ")
    assert "rows=(0,); needed" in sentence(kronfx("sparsify", "a", "b", "--rows", 0), 2)


def test_without_a_verb_the_help_is_shown() -> None:
    answer = kronfx("--help")
    assert answer.code == 0
    assert all(verb.__name__ in answer.out for verb in VERBS)
    assert "Usage: kronfx" in kronfx().out + kronfx().err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("kronfx s", ["sparsify", "solve"]),
        ("kronfx sparsify --lowering ", ["auto", "dense", "blocks", "factors"]),
        ("kronfx plan m:f --zero-start r", ["residual"]),
        ("kronfx bench --ro", ["--rows"]),
    ],
)
def test_a_shell_completes(line: str, words: list[str]) -> None:
    asked = {"_KRONFX_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    assert kronfx(environment=asked).out.split() == words
