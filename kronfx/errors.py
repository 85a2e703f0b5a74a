"""What kronfx raises and warns of: one sentence a person can act on, one class a stage.

Every message reads ``<stage>: <where>: <what was found>; needed <what>; <what to do>``, where
``<where>`` names the site and its shape (``fc1 (120x400)``) whenever one is to blame.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import ClassVar

# Packages whose frames are not the user's, though they may stand between the user's line and ours.
BETWEEN = {"kronfx", "torch", "contextlib", "accelerate", "lightning", "transformers"}


class KronfxError(Exception):
    """Base of every error kronfx raises on bad input.

    ``where`` is the site (``"fc1 (120x400)"``) or ``""`` when no single layer is to blame; ``found``,
    ``needed`` and ``remedy`` are the three clauses of the sentence.
    """

    stage: ClassVar[str] = "kronfx"

    def __init__(self, where: str, found: str, needed: str, remedy: str) -> None:
        super().__init__(where, found, needed, remedy)  # all of them in args: the error survives pickling
        self.where, self.found, self.needed, self.remedy = where, found, needed, remedy

    def __str__(self) -> str:
        where = f" {self.where}:" if self.where else ""
        return f"{self.stage}:{where} {self.found}; needed {self.needed}; {self.remedy}"


class SolveError(KronfxError):
    """The integer program was asked something that is no integer program."""

    stage = "solve"


class PlanError(KronfxError):
    """A wish that no layer of the model can meet, or a plan that does not parse."""

    stage = "plan"


class GraphError(KronfxError):
    """The whole-model graph could not be built."""

    stage = "graph"


class FactorizeError(KronfxError):
    """The pass cannot rewrite this model by this plan."""

    stage = "factorize"


class TrainError(KronfxError):
    """A training helper was given a model or an option it cannot work with."""

    stage = "train"


class TuneError(KronfxError):
    """The layers of this model cannot be timed on these inputs."""

    stage = "tune"


class PruneError(KronfxError):
    """No blocks were taken out: the model, the batches or an option does not allow it; the model is as it was."""

    stage = "prune"


class RecoverError(KronfxError):
    """Nothing was trained: the models, the batches or an option does not allow it; the model is as it was."""

    stage = "recover"


class FoldError(KronfxError):
    """The reverse pass cannot fold these factors."""

    stage = "fold"


class ExportError(KronfxError):
    """No ONNX file was written; the destination is as it was before."""

    stage = "export"


class VerificationError(ExportError):
    """The exported graph does not compute what the model computes."""


class CheckpointError(KronfxError):
    """No checkpoint was written, or none was loaded: what is on disk and in memory is as it was before."""

    stage = "checkpoint"


class WeightError(KronfxError):
    """A write into a weight that is computed from its factors, where it would be lost."""

    stage = "weight"


class InspectError(KronfxError):
    """There is nothing here that kronfx can describe."""

    stage = "inspect"


@contextmanager
def said_by(verb: type[KronfxError], stage: type[KronfxError]) -> Iterator[None]:
    """What a stage says about names and batches is said by the verb that was called."""
    try:
        yield
    except stage as error:
        raise verb(error.where, error.found, error.needed, error.remedy) from error.__cause__


def reason(error: BaseException) -> str:
    """The first line of what lies at the bottom of a chain of exceptions."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0].rstrip(':')}" if lines else type(error).__name__


def warn(sentence: str) -> None:
    """Warn at the user's line, the innermost one in nobody's package but theirs: Python then says it once a line."""
    frame = sys._getframe(1)
    while _package(frame) in BETWEEN and frame.f_back is not None:
        frame = frame.f_back
    registry = frame.f_globals.setdefault("__warningregistry__", {})
    module = str(frame.f_globals.get("__name__"))
    warnings.warn_explicit(sentence, UserWarning, frame.f_code.co_filename, frame.f_lineno, module, registry)


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__")).partition(".")[0]


@contextmanager
def heard() -> Iterator[None]:
    """Around the seconds in which libraries are imported: Ctrl-C ends the command ``kronfx`` there as it does later,
    with 130 and no traceback. In any other program it is that program's to hear."""
    try:
        yield
    except KeyboardInterrupt:
        is_command = Path(sys.argv[0]).stem == "kronfx" or (sys.argv[0] == "-m" and "kronfx" in sys.orig_argv)
        if not is_command:
            raise
        print("kronfx: interrupted", file=sys.stderr)
        sys.exit(130)
