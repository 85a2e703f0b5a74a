"""The pages are true: links resolve, paths exist, commands are accepted by their scripts, decisions are named."""

from __future__ import annotations

import argparse
import ast
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
from snippets import PAGES, ROOT

DECISIONS = ROOT / "kronfx" / "decisions"

page_of = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))

LINK = re.compile(r"\]\((?!https?:)([^)\s]+)\)")
PATH = re.compile(r"(?<![\w./])(?:kronfx|tests|examples)/[\w./]*\.(?:py|md)\b")
COMMAND = re.compile(r"\bpython ((?:examples|tests)/\S+\.py(?: [^\n]*)?)$")


def broken_links(page: Path, text: str) -> list[str]:
    """Relative links of a page to files, or to headings of Markdown files, that are not there."""
    broken = []
    for link in LINK.findall(text):
        name, _, heading = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (heading and heading not in headings(target.read_text())):
            broken.append(link)
    return broken


def headings(text: str) -> set[str]:
    """The anchors of a page, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def commands(text: str) -> list[str]:
    """``examples/x.py --option value``: every command of a page that runs a script, in blocks and in running text."""
    lines = [line for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    lines += [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]
    return [found[1] for line in lines if (found := COMMAND.search(line))]


EVERY = sorted({command for page in PAGES for command in commands(page.read_text())})


@page_of
def test_links_resolve(page: Path) -> None:
    assert broken_links(page, page.read_text()) == []


@page_of
def test_files_that_a_page_names_exist(page: Path) -> None:
    assert {name for name in PATH.findall(page.read_text()) if not (ROOT / name).is_file()} == set()


def exit_status(command: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Of the script, run as far as its own parser, which takes the arguments or exits with 2."""
    script, *arguments = shlex.split(command)
    parse = argparse.ArgumentParser.parse_args

    def parsed(parser: argparse.ArgumentParser, given: list[str] | None = None) -> None:
        parse(parser, given)
        parser.exit()

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parsed)
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    monkeypatch.syspath_prepend(str(ROOT / Path(script).parent))
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(script, run_name="__main__")
    return int(stopped.value.code or 0)


@pytest.mark.parametrize("command", EVERY, ids=str)
def test_a_script_accepts_its_command(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert exit_status(command, monkeypatch) == 0


@pytest.mark.parametrize("arguments", ["--nowhere 1", "--seed one"])
def test_an_option_that_is_none_is_seen(arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert exit_status(f"examples/quickstart.py {arguments}", monkeypatch) == 2


def test_the_pages_name_their_commands() -> None:
    """The tables that scripts print stand beside them, with the scripts' names."""
    for folder in ("examples/benchmarks", "examples/paper", "tests/zoo"):
        assert commands((ROOT / folder / "README.md").read_text()), folder
    text = "`python\nexamples/x.py --only\nCASE`, then\n```bash\npip install y && python tests/zoo/z.py\n```\n"
    assert commands(text) == ["tests/zoo/z.py", "examples/x.py --only CASE"]


def test_a_broken_link_is_seen() -> None:
    text = "[a](kronfx/README.md#glossary) [b](kronfx/README.md#nowhere) [c](none.md) [d](https://none.example/x.md)"
    assert broken_links(ROOT / "README.md", text) == ["kronfx/README.md#nowhere", "none.md"]


def test_the_tour_of_the_package_names_every_room() -> None:
    package = ROOT / "kronfx"
    folders = [room.parent for stage in ("", "deploy", "train") for room in (package / stage).glob("*/__init__.py")]
    rooms = {f"{folder.name}/" for folder in folders} | {file.name for file in package.glob("[!_]*.py")}
    assert rooms - set(re.findall(r"`([\w./]+)`", (package / "README.md").read_text())) == set()


def docstrings() -> str:
    """Of the whole package, one below the other."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    trees = [ast.parse(path.read_text()) for path in (ROOT / "kronfx").rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, kinds)]
    return "\n".join(ast.get_docstring(node) or "" for node in nodes)


def test_every_decision_is_named_by_a_docstring_and_by_the_index() -> None:
    pages = {page.name for page in DECISIONS.glob("*.md")} - {"README.md"}
    assert pages
    assert set(re.findall(r"kronfx/decisions/(\w+\.md)", docstrings())) == pages
    index = (DECISIONS / "README.md").read_text()
    assert set(LINK.findall(index)) == pages
