"""Tests lie in the rooms of what they test, each file small and alone in its name: read off the folders themselves."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import kronfx

TESTS, PACKAGE = Path(__file__).parent, Path(kronfx.__file__).parent
LINES = 320
UNTESTED = {"records", "deploy/nodes"}  # values and helpers: whoever makes and uses them is tested


def violations(files: dict[str, int], rooms: set[str]) -> list[str]:
    """What is wrong with a tree of ``{path below tests/: lines}`` beside a package of these rooms."""
    tests = [Path(path) for path in files if Path(path).name.startswith("test_")]
    folders = {path.parent.as_posix() for path in tests} - {"."}
    names = Counter(path.name for path in tests)
    return [
        *(f"{path} has {lines} lines" for path, lines in files.items() if lines > LINES),
        *(f"{folder} is no room" for folder in sorted(folders - rooms)),
        *(f"{room} has no tests" for room in sorted(rooms - folders - UNTESTED)),
        *(f"{room} has tests" for room in sorted(folders & UNTESTED)),
        *(f"{name} is the name of {count} files" for name, count in names.items() if count > 1),
    ]


def lines_of(root: Path) -> dict[str, int]:
    return {path.relative_to(root).as_posix(): len(path.read_text().splitlines()) for path in root.rglob("*.py")}


def test_tests_mirror_the_rooms() -> None:
    rooms = {Path(path).parent.as_posix() for path in lines_of(PACKAGE)} - {"."}
    assert not UNTESTED - rooms
    assert violations(lines_of(TESTS), rooms) == []


def test_the_check_sees_what_is_broken_on_purpose() -> None:
    good = {"test_all.py": 10, "models.py": LINES, "graph/test_fold.py": LINES}
    assert violations(good, {"graph", "records"}) == []
    broken = {"models.py": LINES + 1, "attic/test_fold.py": 1, "records/test_plan.py": 1}
    assert len(violations({**good, **broken}, {"graph", "records", "solver"})) == 5
