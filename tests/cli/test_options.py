"""What every command understands: the environment, JSON, completion, exclusive options."""

import json
from pathlib import Path

import pytest

from likeness.cli.arguments import parser
from likeness.cli.running import main
from likeness.codec import slots
from tests.audit.conftest import Filled
from tests.cli.test_commands import damage_a_pack, key


def test_options_that_exclude_each_other_are_told_with_2(
    filled: Filled, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["list", *key(filled), "--words"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("usage: likeness list")
    assert "--key-file and --words exclude each other" in said


def test_the_environment_names_the_store_and_what_is_typed_wins(
    filled: Filled,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("LIKENESS_STORE", str(filled.root))
    monkeypatch.setenv("LIKENESS_KEY_FILE", str(filled.workshop.key_file))
    words = tmp_path / "words"
    words.touch(mode=0o600)
    words.write_text(slots.as_words(bytes(range(32))))

    assert main(["list"]) == 0
    assert main(["list", "--words-file", str(words)]) == 2
    assert "no slot" in capsys.readouterr().err


def test_programs_get_json(filled: Filled, capsys: pytest.CaptureFixture[str]) -> None:
    one = filled.versions[0]

    assert main(["list", *key(filled), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert main(["show", one.version, *key(filled), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert main(["prove", *key(filled), "--json"]) == 0
    fine = json.loads(capsys.readouterr().out)
    name = damage_a_pack(filled)
    assert main(["prove", *key(filled), "--json"]) == 1
    damaged = json.loads(capsys.readouterr().out)

    assert {each["version"] for each in listed["versions"]} == {
        each.version for each in filled.versions
    }
    assert shown in listed["versions"]
    assert shown["disks"][0]["size_bytes"] == 512 << 10
    assert fine == {"fine": True, "found": []}
    assert not damaged["fine"]
    assert name in {each["name"] for each in damaged["found"]}


def test_every_command_has_a_help_that_fits_a_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in parser().commands:
        assert main([name, "--help"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith(f"usage: likeness {name}")
        assert max(map(len, lines)) <= 80


def test_a_shell_is_told_how_to_complete(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["completion", "bash"]) == 0
    assert "_LIKENESS_COMPLETE=bash_complete" in capsys.readouterr().out

    monkeypatch.setenv("_LIKENESS_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "likeness restore --acc")
    monkeypatch.setenv("COMP_CWORD", "2")
    with pytest.raises(SystemExit):
        main([])
    assert capsys.readouterr().out.strip() == "plain,--accept-damage"
