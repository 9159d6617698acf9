"""Making stores and keys from the command line."""

import os
import re
import subprocess
import sys
from pathlib import Path

from likeness.codec import slots
from likeness.codec.slots import SlotKind
from likeness.store.format import layout
from likeness.store.format.opening import open_store, open_store_with_key_file
from likeness.transport.local import LocalTransport
from tests.audit.conftest import Filled
from tests.cli.conftest import ROOT, Shell
from tests.cli.test_commands import PASSPHRASE, key, one_sentence


def typed_at_creation(shell: Shell, root: Path, key_file: Path, *, answer: str) -> tuple[str, int]:
    """Create a store as a person does: read the words from the screen, then answer."""
    running = subprocess.Popen(
        [
            *(sys.executable, "-m", "likeness", "create"),
            *("--store", str(root), "--key-file", str(key_file)),
        ],
        cwd=shell.folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stderr is not None
    shown = ""
    while "Type them back" not in shown:
        shown += running.stderr.read(1)
    words = " ".join(re.findall(r"\d+\. ([a-z]+)", shown))
    out, _ = running.communicate((answer or words) + "\n", timeout=60)
    return out, running.returncode


def test_a_store_is_made_once_its_words_were_typed_back(shell: Shell, tmp_path: Path) -> None:
    root, key_file = tmp_path / "new", tmp_path / "new.key"

    sheet, code = typed_at_creation(shell, root, key_file, answer="")

    assert code == 0
    store = open_store_with_key_file(LocalTransport(root), key_file)
    assert store.keys.public().fingerprint in sheet
    assert store.store_id in sheet
    words = " ".join(re.findall(r"\d+\. ([a-z]+)", sheet))
    opened = open_store(LocalTransport(root), slots.from_words(words), SlotKind.RECOVERY_WORDS)
    assert opened.keys.master == store.keys.master
    assert shell.run("verify", "--store", root).stdout.startswith("fine")


def test_words_that_were_not_typed_back_make_no_store(shell: Shell, tmp_path: Path) -> None:
    root, key_file = tmp_path / "new", tmp_path / "new.key"
    other = slots.as_words(slots.fresh_secret())

    _, code = typed_at_creation(shell, root, key_file, answer=other)

    assert code == 2
    assert list(root.iterdir()) == []
    assert not key_file.exists()


def test_no_store_is_made_over_another(filled: Filled, shell: Shell, tmp_path: Path) -> None:
    done = shell.run("create", "--store", filled.root, "--key-file", tmp_path / "new.key")

    assert done.returncode == 2
    assert "already" in one_sentence(done)
    assert not (tmp_path / "new.key").exists()


def test_a_passphrase_is_added_used_and_taken_away(filled: Filled, shell: Shell) -> None:
    added = shell.run("slots", "add-passphrase", *key(filled), typed=[PASSPHRASE, PASSPHRASE])
    assert added.returncode == 0, added.stderr
    name = added.stderr.split()[-1]
    place = ["--store", filled.root, "--passphrase"]
    assert f"{name}  passphrase" in shell.run("slots", "list", *key(filled)).stdout
    assert shell.run("list", *place, typed=[PASSPHRASE]).returncode == 0
    assert shell.run("audit", "--store", filled.root).stdout.startswith("fine")

    assert shell.run("slots", "remove", name, *key(filled)).returncode == 0

    assert shell.run("list", *place, typed=[PASSPHRASE]).returncode == 2
    assert shell.run("audit", "--store", filled.root).stdout.startswith("fine")


def test_a_passphrase_typed_in_two_ways_is_not_taken(filled: Filled, shell: Shell) -> None:
    before = filled.names(layout.KEYS)
    done = shell.run("slots", "add-passphrase", *key(filled), typed=[PASSPHRASE, PASSPHRASE[1:]])

    assert done.returncode == 2
    assert "differ" in one_sentence(done)
    assert filled.names(layout.KEYS) == before


def test_an_escrow_key_from_the_safe_opens_the_store(filled: Filled, shell: Shell) -> None:
    made = shell.run("escrow-key", "--to", "safe.key")
    added = shell.run("slots", "add-escrow", made.stdout.strip(), *key(filled))
    wrong = shell.run("slots", "add-escrow", "xyz", *key(filled))

    done = shell.run("list", "--store", filled.root, "--escrow-file", "safe.key")

    assert made.returncode == added.returncode == 0, made.stderr + added.stderr
    assert (shell.folder / "safe.key").stat().st_mode & 0o077 == 0
    assert done.returncode == 0, done.stderr
    assert wrong.returncode == 2


def test_the_last_slot_stays(filled: Filled, shell: Shell) -> None:
    first, second = (n for n in filled.names(layout.KEYS) if "/slot-" in n)
    kinds = shell.run("slots", "list", *key(filled)).stdout
    words = first if f"{first}  recovery words" in kinds else second
    assert shell.run("slots", "remove", words, *key(filled)).returncode == 0

    (left,) = (n for n in filled.names(layout.KEYS) if "/slot-" in n)
    done = shell.run("slots", "remove", left, *key(filled))

    assert done.returncode == 2
    assert "last key slot" in one_sentence(done)


def test_the_sheet_has_words_only_when_they_are_new(filled: Filled, shell: Shell) -> None:
    plain = shell.run("sheet", *key(filled)).stdout
    fresh = shell.run("sheet", *key(filled), "--new-words").stdout
    words = " ".join(re.findall(r"\d+\. ([a-z]+)", fresh))

    assert filled.store.keys.public().fingerprint in plain
    assert re.findall(r"\d+\. ([a-z]+)", plain) == []
    assert shell.run("list", "--store", filled.root, typed=[words]).returncode == 0
    assert shell.run("list", "--store", filled.root, typed=[filled.workshop.words]).returncode == 0


def test_a_new_epoch_changes_the_fingerprint_and_keeps_everything(
    filled: Filled, shell: Shell
) -> None:
    before = shell.run("epoch", "show", *key(filled)).stdout
    begun = shell.run("epoch", "begin", *key(filled))
    after = shell.run("epoch", "show", *key(filled)).stdout
    checked = shell.run(
        "verify", "--store", filled.root, "--fingerprint", after.partition("fingerprint ")[2]
    )

    assert begun.returncode == 0, begun.stderr
    assert before.startswith("epoch 1, ")
    assert after == begun.stdout
    assert after.startswith("epoch 2, ")
    assert before.split()[-1] != after.split()[-1]
    assert checked.returncode == 0, checked.stdout
    assert shell.run("prove", *key(filled)).returncode == 0


def test_lost_public_keys_are_written_anew(filled: Filled, shell: Shell) -> None:
    filled.path(layout.public_keys(1)).unlink()
    assert shell.run("audit", *key(filled)).returncode == 1

    done = shell.run("epoch", "renew", *key(filled))

    assert layout.public_keys(1) in done.stderr
    assert shell.run("verify", "--store", filled.root).returncode == 0
