"""Checking a store from the command line: what is whole, what is damaged, what is no damage."""

import shutil
from pathlib import Path

import pytest

from likeness.model.ids import VmId
from likeness.store.format import layout
from likeness.store.write.heads import write_head
from tests.audit.conftest import Filled
from tests.cli.conftest import Shell
from tests.cli.test_commands import damage_a_pack, key
from tests.unit.workshop import flipped, noise


@pytest.mark.parametrize("command", ["audit", "scrub", "verify", "prove"])
def test_a_whole_store_is_fine(filled: Filled, shell: Shell, command: str) -> None:
    with_key = key(filled) if command == "prove" else ["--store", str(filled.root)]

    done = shell.run(command, *with_key)

    assert done.returncode == 0, done.stderr + done.stdout
    assert done.stdout.startswith("fine: ")


@pytest.mark.parametrize("command", ["scrub", "verify", "prove"])
def test_a_damaged_pack_is_named_and_ends_with_1(
    filled: Filled, shell: Shell, command: str
) -> None:
    name = damage_a_pack(filled)
    with_key = key(filled) if command == "prove" else ["--store", str(filled.root)]

    done = shell.run(command, *with_key)

    assert done.returncode == 1
    assert done.stdout.startswith(("damage: ", "spare lost: "))
    assert name in done.stdout
    assert "fine" not in done.stdout


def test_prove_names_the_versions_that_a_missing_pack_takes_away(
    filled: Filled, shell: Shell
) -> None:
    pack = next(iter(filled.workshop.packs_of(filled.versions[1])))
    filled.path(layout.pack(pack)).unlink()

    done = shell.run("prove", *key(filled))
    other = shell.run("prove", filled.versions[0].version, *key(filled))
    this = shell.run("prove", filled.versions[1].version, *key(filled))

    assert done.returncode == this.returncode == 1
    assert filled.versions[1].name in done.stdout
    assert filled.versions[0].name not in done.stdout
    assert other.returncode == 0, other.stdout


def test_packs_that_were_given_back_are_no_loss(filled: Filled, shell: Shell) -> None:
    workshop, disk = filled.workshop, noise("twin", 1 << 18)
    first = workshop.packs_of(workshop.back_up(disk, vm=VmId("c" * 32)))
    both = workshop.packs_of(workshop.back_up(disk, vm=VmId("d" * 32)))
    workshop.delete_redundant(both - first)

    done = shell.run("prove", *key(filled))

    assert both - first
    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith("fine: ")


def test_packs_that_could_not_be_proved_for_want_of_an_index_are_not_called_fine(
    filled: Filled, shell: Shell
) -> None:
    name = filled.names(layout.INDEX)[0]
    path = filled.path(name)
    path.write_bytes(flipped(path.read_bytes(), 60))

    done = shell.run("prove", *key(filled))

    assert done.returncode == 1
    assert f"spare lost: {name}" in done.stdout
    assert "fine" not in done.stdout


def test_audit_names_what_is_missing(filled: Filled, shell: Shell) -> None:
    name = filled.names(layout.PACKS)[0]
    filled.path(name).unlink()

    done = shell.run("audit", "--store", filled.root)

    assert done.returncode == 1
    assert f"damage: {name}: missing" in done.stdout


def test_an_uncommitted_tail_is_a_notice_and_no_damage(filled: Filled, shell: Shell) -> None:
    torn = filled.workshop.back_up(noise("tail", 64 * 1024))
    path = filled.path(torn.name)
    path.write_bytes(path.read_bytes()[:64])

    done = shell.run("verify", "--store", filled.root)

    assert done.returncode == 0, done.stdout
    assert "notice: " in done.stdout


def test_verify_finds_a_store_that_was_set_back(
    filled: Filled, shell: Shell, tmp_path: Path
) -> None:
    shutil.copytree(filled.root, tmp_path / "kept")
    filled.workshop.back_up(noise("newer", 64 * 1024))
    head_state = write_head(filled.store, clock=filled.workshop.clock)

    head = ["--head", head_state.number, head_state.digest[:8]]
    now = shell.run("verify", "--store", filled.root, *head)
    back = shell.run("verify", "--store", tmp_path / "kept", *head)

    assert now.returncode == 0, now.stdout
    assert back.returncode == 1
    assert "set back" in back.stdout


def test_verify_refuses_a_wrong_fingerprint(filled: Filled, shell: Shell) -> None:
    done = shell.run("verify", "--store", filled.root, "--fingerprint", "00" * 16)

    assert done.returncode == 1
    assert "not the one given" in done.stderr
