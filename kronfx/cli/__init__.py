"""The command line: ``kronfx`` and ``python -m kronfx``.

One file a verb, one row each below. To add one: a function whose own parameters are annotated for typer, which answers
an ``Answer``; if it has options, a dataclass of them (see :mod:`kronfx.options`); its row.
``tests/cli/test_said.py`` holds the two together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from kronfx.cli.bench import bench
from kronfx.cli.demo import demo
from kronfx.cli.doctor import doctor, version
from kronfx.cli.inspect import inspect
from kronfx.cli.plan import plan
from kronfx.cli.solve import solve
from kronfx.cli.sparsify import sparsify
from kronfx.cli.verb import Answer, command
from kronfx.deploy.options import BenchOptions, SparsifyOptions
from kronfx.planner import PlanOptions
from kronfx.solver import SolveOptions

VERBS: dict[Callable[..., Answer], type | None] = {
    inspect: None,
    sparsify: SparsifyOptions,
    bench: BenchOptions,
    plan: PlanOptions,
    solve: SolveOptions,
    doctor: None,
    demo: None,
}

app = typer.Typer(
    name="kronfx",
    help="Kronecker factors for training, block-sparse ONNX files for running.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # the options' own texts have brackets, which are no markup
)


def _version(asked: bool) -> None:
    if asked:
        print(f"kronfx {version('kronfx') or 'not installed'}")
        raise typer.Exit


@app.callback()
def _whole(
    asked: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None: ...


for verb, options in VERBS.items():
    app.command()(command(verb, options))
