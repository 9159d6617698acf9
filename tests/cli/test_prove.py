"""`prove` asks what versions need, names whom damage concerns, and calls nothing else so."""

from pathlib import Path

import pytest

from likeness.store.format import layout
from likeness.store.write.heads import write_head
from tests.audit.conftest import Filled, fill
from tests.cli.conftest import Shell
from tests.unit.workshop import flipped, noise


@pytest.fixture
def filled(tmp_path: Path) -> Filled:
    return fill(tmp_path)


def key(filled: Filled) -> list[str]:
    return ["--store", str(filled.root), "--key-file", str(filled.workshop.key_file)]


def spoil(path: Path) -> None:
    path.write_bytes(flipped(path.read_bytes(), path.stat().st_size // 2))


def hurt_index_and_tables(filled: Filled) -> None:
    """Nothing says any more what is in the packs, and every record is whole."""
    for name in filled.names(layout.INDEX):
        spoil(filled.path(name))
    for name in filled.names(layout.PACKS):
        path = filled.path(name)
        path.write_bytes(path.read_bytes()[:-70])


def test_index_and_pack_tables_hurt_together_are_told_and_everything_restores(
    filled: Filled, shell: Shell, tmp_path: Path
) -> None:
    hurt_index_and_tables(filled)

    proved = shell.run("prove", *key(filled))
    version = filled.versions[0].version
    restored = shell.run("restore", version, *key(filled), "--to", tmp_path / "disk.raw")

    assert proved.returncode == 1
    assert "spare lost: index/" in proved.stdout
    assert "\ndamage: " not in f"\n{proved.stdout}"
    assert restored.returncode == 0, restored.stderr
    assert "salvaged" in restored.stderr


def test_packs_and_index_set_back_together_are_no_proof(filled: Filled, shell: Shell) -> None:
    """What the index still knows is whole, and is less than the newest version needs."""
    before = {*filled.names(layout.PACKS), *filled.names(layout.INDEX)}
    newest = filled.workshop.back_up(noise("newest", 512 * 1024))
    write_head(filled.store, clock=filled.workshop.clock)
    for name in {*filled.names(layout.PACKS), *filled.names(layout.INDEX)} - before:
        filled.path(name).unlink()

    done = shell.run("prove", *key(filled))
    this = shell.run("prove", newest.version, *key(filled))
    other = shell.run("prove", filled.versions[0].version, *key(filled))

    assert (done.returncode, this.returncode, other.returncode) == (1, 1, 0), other.stdout
    for each in (done, this):
        assert f"damage: {newest.name}: " in each.stdout
        assert filled.versions[0].name not in each.stdout


@pytest.mark.parametrize("which", [0, -1])
def test_a_version_record_that_is_gone_is_missed(filled: Filled, shell: Shell, which: int) -> None:
    version = filled.versions[which]
    filled.path(version.name).unlink()

    done = shell.run("prove", *key(filled))

    assert done.returncode == 1
    assert f"damage: {layout.versions_of(version.vm)}: the newest head knows" in done.stdout


def test_a_record_under_another_name_is_in_the_list_and_restores(
    filled: Filled, shell: Shell, tmp_path: Path
) -> None:
    version = filled.versions[0]
    moved = filled.path(version.name)
    moved.rename(moved.with_name(f"{7:016x}-{'8' * 32}"))

    listed = shell.run("list", *key(filled))
    restored = shell.run("restore", version.version, *key(filled), "--to", tmp_path / "disk.raw")
    checks = [shell.run(check, *key(filled)) for check in ("prove", "audit", "verify")]

    assert version.version[:12] in listed.stdout
    assert restored.returncode == 0, restored.stderr
    for done in checks:
        assert done.returncode == 1
        assert f"spare lost: {version.name}: " in done.stdout
        assert "\ndamage: " not in f"\n{done.stdout}"


def dies_once_packs_are_in_place(filled: Filled) -> None:
    def step(reached: str) -> None:
        if reached == "maps written":
            raise InterruptedError

    receipt = filled.workshop.transfer(noise("died", 256 * 1024))
    with pytest.raises(InterruptedError):
        filled.workshop.commit(receipt, step)


@pytest.mark.parametrize("check", ["prove", "audit", "scrub", "verify"])
def test_what_a_dead_commit_left_is_no_damage_whatever_becomes_of_it(
    filled: Filled, shell: Shell, check: str
) -> None:
    before = {*filled.names(layout.PACKS), *filled.names(layout.MAPS)}
    dies_once_packs_are_in_place(filled)
    left = {*filled.names(layout.PACKS), *filled.names(layout.MAPS)} - before
    assert len(left) > 2
    for name in left:
        spoil(filled.path(name))

    words = ["--store", str(filled.root)] if check == "scrub" else key(filled)
    done = shell.run(check, *words)

    assert done.returncode == 0, done.stdout


def test_every_version_that_is_concerned_is_named_however_many(
    filled: Filled, shell: Shell
) -> None:
    for name in filled.names(layout.PACKS):
        filled.path(name).unlink()

    done = shell.run("prove", *key(filled))

    for version in filled.versions:
        assert f"damage: {version.name}: " in done.stdout
