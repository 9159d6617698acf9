"""A vault is refused that is the data store itself by another name, and nothing else is."""

import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from likeness.errors import NoVault, ShareFull, ShareRefused, ShareUnreachable
from likeness.store.repair.second_place import require_second_place
from likeness.transport.base import Entry, Transport
from likeness.transport.local import LocalTransport
from tests.support.faulty import CHANGING, Fault, FaultyTransport
from tests.support.memory import MemoryTransport


@pytest.fixture
def store(tmp_path: Path) -> Path:
    folder = tmp_path / "store"
    folder.mkdir()
    return folder


def a_link(store: Path) -> Path:
    link = store.with_name("link")
    link.symlink_to(store)
    return link


def a_link_above(store: Path) -> Path:
    link = store.with_name("elsewhere")
    link.symlink_to(store.parent)
    return link / store.name


def a_folder_inside(store: Path) -> Path:
    inside = store / "copies" / "vault"
    inside.mkdir(parents=True)
    return inside


def a_folder_of_the_store(store: Path) -> Path:
    inside = store / "quarantine"
    inside.mkdir()
    return inside


def the_folder_above(store: Path) -> Path:
    return store.parent


@pytest.mark.parametrize(
    "other",
    [
        lambda store: store,
        lambda store: store / ".." / store.name,
        a_link,
        a_link_above,
        a_folder_inside,
        a_folder_of_the_store,
        the_folder_above,
    ],
)
def test_the_data_store_under_another_name_is_no_vault(
    store: Path, other: Callable[[Path], Path]
) -> None:
    vault = other(store)
    before = sorted(store.parent.rglob("*"))

    with pytest.raises(NoVault, match=r"no second place|lies inside"):
        require_second_place(LocalTransport(store), LocalTransport(vault))

    assert sorted(store.parent.rglob("*")) == before, "both places stay as they were"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_a_bind_mount_is_the_same_place(store: Path) -> None:
    vault = store.with_name("mounted")
    vault.mkdir()
    subprocess.run(["mount", "--bind", str(store), str(vault)], check=True)
    try:
        with pytest.raises(NoVault, match="no second place"):
            require_second_place(LocalTransport(store), LocalTransport(vault))
    finally:
        subprocess.run(["umount", str(vault)], check=True)


def test_two_folders_beside_each_other_are_two_places(store: Path) -> None:
    vault = store.with_name("vault")
    vault.mkdir()

    require_second_place(LocalTransport(store), LocalTransport(vault))

    assert not [*store.iterdir(), *vault.iterdir()]


@pytest.mark.parametrize("fault", [Fault.RAISE_AFTER, Fault.TORN_WRITE])
def test_a_mark_that_a_crash_left_in_the_vault_is_removed_by_the_next_look(fault: Fault) -> None:
    store, vault = MemoryTransport(), MemoryTransport()
    with pytest.raises(ShareUnreachable):
        require_second_place(store, FaultyTransport(vault, at=1, fault=fault, counting=CHANGING))
    assert len(vault.objects) == 1

    require_second_place(store, vault)

    assert vault.objects == {}


class NobodyMayDelete(MemoryTransport):
    def delete(self, name: str) -> None:
        raise ShareRefused(f"{name} is kept for seven years")


class SweptAtOnce(MemoryTransport):
    def create(self, name: str, parts: Sequence[bytes]) -> None:
        """Whatever comes is gone again."""

    def folders(self, folder: str) -> list[str]:
        return []

    def entries(self, folder: str, *, deep: bool = True) -> Iterator[Entry]:
        return iter(())


def test_a_vault_that_lets_nobody_delete_is_a_vault() -> None:
    require_second_place(MemoryTransport(), NobodyMayDelete())


def test_a_data_store_that_takes_nothing_more_is_told_apart_all_the_same() -> None:
    full = MemoryTransport(capacity_bytes=0)

    require_second_place(full, MemoryTransport())
    with pytest.raises(ShareFull):
        require_second_place(full, full)


class NobodyMayWrite(MemoryTransport):
    """A data store that this account may only read, seen by the vault's account."""

    def create(self, name: str, parts: Sequence[bytes]) -> None:
        raise ShareRefused(f"{name}: read only")


def test_a_data_store_that_only_the_vaults_account_may_write_to_is_no_vault() -> None:
    store, vault = NobodyMayWrite(), MemoryTransport()
    store.objects = vault.objects

    with pytest.raises(NoVault, match="lies inside"):
        require_second_place(store, vault)


def test_a_place_that_keeps_nothing_proves_nothing() -> None:
    lost: Transport = SweptAtOnce()
    with pytest.raises(ShareUnreachable, match="gone a moment later"):
        require_second_place(lost, MemoryTransport())
