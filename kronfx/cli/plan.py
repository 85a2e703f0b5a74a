"""``kronfx plan``: what would become of every linear map of a model that a person's own code makes."""

from __future__ import annotations

import importlib
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer
from torch import nn
from typing_extensions import Unpack

from kronfx.api import plan as planned
from kronfx.cli.verb import Answer
from kronfx.errors import PlanError, reason
from kronfx.files import destination, write
from kronfx.planner import PlanKeywords

Maker = Annotated[
    str, typer.Argument(metavar="MODULE:FACTORY", help="A function without arguments, or a model; is imported and run.")
]
Out = Annotated[Path | None, typer.Option("--out", metavar="PLAN.json", help="Also write the plan, to edit and use.")]


def plan(maker: Maker, out: Out = None, **wishes: Unpack[PlanKeywords]) -> Answer:
    """What would become of every linear map of a model, and why.

    It imports the module, from the current folder too, and runs its factory: your code, so name what you trust. What
    that prints goes to stderr.
    """
    if out is not None:
        destination(out, PlanError)  # before the module runs
    made = planned(model_of(maker), **wishes)
    text = made.to_json()
    if out is not None:
        write(out, text.encode(), PlanError)
    return Answer(made, json.loads(text))


def model_of(maker: str) -> nn.Module:
    """The model that ``module:factory`` makes, or is. Raises PlanError."""
    module, _, name = maker.partition(":")
    if not module or not name:
        raise PlanError("", f"{maker!r}", "a module and a factory in it", "write package.module:factory")
    print(f"kronfx: importing {module} and running its {name}", file=sys.stderr)
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        with redirect_stdout(sys.stderr):
            found = getattr(importlib.import_module(module), name)
            model = found if isinstance(found, nn.Module) else found()
    except (Exception, SystemExit) as error:
        needed = "a module that imports and a factory in it that takes no arguments"
        raise PlanError("", f"{maker} raises {reason(error)}", needed, "run it in Python first") from error
    finally:
        sys.path.remove(here)
    if not isinstance(model, nn.Module):
        raise PlanError(
            "", f"{maker} makes something of type {type(model).__name__}", "a torch.nn.Module", "name its maker"
        )
    return model
