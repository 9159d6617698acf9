"""Names are words of the field that a newcomer would look for; `docs/glossary.md` explains them."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GLOSSARY = (ROOT / "docs/glossary.md").read_text()
FOLDERS = ("flows", "tasks", "blocks", "catalog", "likeness", "lab")
TABLES = {"hurt", "well", "told"}


def banned_words() -> dict[str, str]:
    """Words of our own, and what to write instead."""
    _, _, table = GLOSSARY.partition("## Words that no name has")
    rows = re.findall(r"^\| (`[^|]+) \| ([^|]+) \|$", table, re.MULTILINE)
    return {word: instead for words, instead in rows for word in re.findall(r"`([^`]+)`", words)}


BANNED = {word: why for word, why in banned_words().items() if word not in TABLES}


def is_made_of(name: str, word: str) -> bool:
    """Whether `name`, in snake form, has these words in it; with `…` at its beginning."""
    if word.endswith("_…"):
        return name.startswith(word.removesuffix("…"))
    return f"_{word}_" in f"_{name}_"


def names_of(path: Path) -> Iterator[str]:
    """Of a module, its classes, functions and constants, in one form."""
    tree = ast.parse(path.read_text())
    found = [path.stem]
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.append(node.name)
    for statement in tree.body:
        if isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            found += [each.id for each in targets if isinstance(each, ast.Name)]
    for name in found:
        yield re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().strip("_")


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_name_is_a_word_of_our_own(folder: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}: {name}: not {word}, but {instead}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for name in names_of(path)
        for word, instead in BANNED.items()
        if is_made_of(name, word)
    ]
    assert found == []


def test_no_table_is_called_by_a_word_that_says_nothing() -> None:
    begin = r"(?:TABLE(?: IF NOT EXISTS)?|WITH|\),) (\w+)(?: AS)? ?\("
    found = [
        f"{path.relative_to(ROOT)}: {table}"
        for path in sorted((ROOT / "catalog").rglob("*"))
        if path.suffix in (".py", ".sql")
        for table in re.findall(begin, path.read_text())
        + re.findall(r"TEMP TABLE (\w+) AS", path.read_text())
        if table in TABLES
    ]
    assert found == []
    assert banned_words().keys() >= TABLES


@pytest.mark.parametrize(
    ("name", "word"),
    [("most_bytes", "most_…"), ("read_witness", "witness"), ("objects_given_back", "given_back")],
)
def test_a_banned_word_is_found_within_a_name(name: str, word: str) -> None:
    assert word in BANNED
    assert is_made_of(name, word)
    assert not is_made_of("almost_bytes", word)


def test_the_glossary_explains_each_word_once() -> None:
    rows = re.findall(r"^\| ([^|]+) \|", GLOSSARY, re.MULTILINE)
    words = [word.strip() for row in rows for word in row.split(",")]

    assert len(words) > 30
    assert sorted(words) == sorted(set(words))
