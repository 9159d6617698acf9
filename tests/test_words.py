"""Names are words of the field that a newcomer would look for; `docs/glossary.md` explains them."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("flows", "tasks", "blocks", "catalog", "likeness")
BANNED = {
    "hand_on": "say what it is: a queue",
    "patience": "it is a deadline, or pauses that grow",
    "lay_down": "it is set_idle, or put_object",
    "keep_promise": "say what was promised: start_promised_vm",
    "failing_in_words": "say what becomes of the error: error_as_state_message",
    "look_for_packs": "it is check_presence",
}
"""Words that mean something only to whoever wrote them, and what to write instead."""


def names_of(path: Path) -> Iterator[str]:
    """Of a module, its classes and its functions, in one form."""
    yield path.stem
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", node.name).lower().strip("_")


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_name_is_a_word_of_our_own(folder: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}: {name}: {why}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for name in names_of(path)
        for word, why in BANNED.items()
        if name == word
    ]
    assert found == []


def test_the_glossary_explains_each_word_once() -> None:
    rows = re.findall(r"^\| ([^|]+) \|", (ROOT / "docs/glossary.md").read_text(), re.MULTILINE)
    words = [word.strip() for row in rows for word in row.split(",")]

    assert len(words) > 30
    assert sorted(words) == sorted(set(words))
