"""The public names are a contract: exactly these, each documented."""

from __future__ import annotations

import inspect

import kronfx as kx

PUBLIC = {
    "Comparison", "ExportReport", "Factors", "KroneckerShape", "KronfxError", "Plan", "Rates", "Report", "Solution",
    "Timings", "Tuning", "calibrate", "compare", "draw", "export_onnx", "factorize", "factors", "fold", "graph",
    "inspect", "load", "plan", "prune", "recover", "save", "solve", "sparsify_onnx", "to_bsr", "train", "tune",
}  # fmt: skip


def test_all_holds_exactly_the_public_names() -> None:
    assert set(kx.__all__) == PUBLIC
    assert list(kx.__all__) == sorted(kx.__all__)


def test_every_public_name_exists_and_answers_help() -> None:
    for name in kx.__all__:
        assert inspect.getdoc(getattr(kx, name)), name


def test_nothing_else_is_public() -> None:
    modules = {name for name, value in vars(kx).items() if inspect.ismodule(value)}
    assert {name for name in vars(kx) if not name.startswith("_")} - modules <= PUBLIC


def test_graph_is_the_verb_not_the_package() -> None:
    import kronfx.graph.trace  # noqa: F401  importing a room must not shadow the verb

    assert callable(kx.graph)


def test_signatures_of_the_contract() -> None:
    wanted = {
        "plan": ["model", "rank", "block", "include", "exclude"],
        "factorize": ["model", "plan", "init", "inplace"],
        "fold": ["model", "threshold", "inplace"],
        "export_onnx": [
            "model", "path", "example_inputs", "lowering", "verify", "batch_sizes", "dynamic_shapes", "tune", "rows",
            "optimize_for", "timings",
        ],
        "sparsify_onnx": [
            "src", "dst", "lowering", "block", "tune", "rows", "optimize_for", "timings", "verify", "batch_sizes",
        ],
        "solve": ["out_features", "in_features", "rank"],
        "graph": ["model", "example_inputs"],
        "draw": ["model", "path", "example_inputs"],
        "save": ["model", "folder"],
        "load": ["model", "folder"],
        "recover": ["model", "teacher", "batches", "steps", "lr", "by", "loss", "optimizer"],
        "prune": ["model", "batches", "target", "block", "include", "exclude", "floor", "how", "shares", "loss"],
    }  # fmt: skip
    for name, parameters in wanted.items():
        have = list(inspect.signature(getattr(kx, name)).parameters)
        assert [p for p in have if p in parameters] == parameters, name
