"""The command line, run in this process: a start of Python with torch takes seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from typer.testing import CliRunner

from kronfx.cli import app


@dataclass(frozen=True)
class Said:
    """What a command said, and its exit code."""

    code: int
    out: str
    err: str


def kronfx(*words: object, environment: Mapping[str, str] | None = None) -> Said:
    """``kronfx WORDS``; what it lets pass is raised."""
    given = [str(word) for word in words]
    here = {"COLUMNS": "100", **(environment or {})}  # whatever the terminal that the tests run in
    result = CliRunner().invoke(app, given, prog_name="kronfx", env=here, catch_exceptions=False)
    return Said(result.exit_code, result.stdout, result.stderr)


def sentence(said: Said, code: int) -> str:
    """What stands on stderr where a command could not: one sentence, nothing else and no traceback."""
    assert (said.code, said.out) == (code, ""), said
    (line,) = said.err.splitlines()
    assert line.startswith("kronfx: ")
    return line.removeprefix("kronfx: ")
