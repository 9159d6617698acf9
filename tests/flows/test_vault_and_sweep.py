"""The second place, and tidying up after runs that died."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from blocks import DataStoreShare, Vault
from catalog.messages import message_id, written
from flows.forget import forget
from flows.protect import protect, rehearse
from flows.pull import set_up_pull
from flows.reclaim import reclaim
from flows.sweep import sweep
from flows.vault import check_vault, keep_vault, vault
from likeness.clock import system_clock
from likeness.errors import ShareRefused
from likeness.model.ids import RunId, random_name
from likeness.stopping import StopToken
from likeness.store.check.auditing import audit_presence
from likeness.store.format.observations import Weight
from likeness.store.format.opening import open_store_with_key_file
from likeness.store.format.owning import owner_of, take_over
from likeness.store.read.versions import find_version
from likeness.transport.local import LocalTransport
from likeness.xen.inventory import find_vm
from likeness.xen.marks import Owner
from likeness.xen.snapshots import take_snapshot
from tasks.claims import run_claimed
from tasks.page import vault_lines
from tasks.reporting import version_row
from tests.flows.scene import Scene, noise, outcomes, sizes
from tests.flows.test_telling import page

pytestmark = [pytest.mark.prefect, pytest.mark.lab]


def test_a_vault_that_is_away_or_is_the_data_store_is_said_and_shown_nowhere(site: Scene) -> None:
    shutil.rmtree(site.folder / "vault")

    ended = site.back_up("db", vault=True)

    assert ended.name == "CompletedWithErrors"
    assert ended.message
    assert "1 VM backed up, but" in ended.message
    assert str(site.folder / "vault") in ended.message
    assert outcomes(ended)["db"].version
    catalog, run = site.site.catalog.file, site.newest("db").run
    told = [message_id("job", run), message_id("job", run, "afterwards")]
    assert written(catalog, told) == set(told), "people are told, although the backup went well"

    vault(site=site.name, return_state=True)
    said = page(site, "dashboard")
    assert "| ❌ | vault |" in said
    assert "The newest version is not there of: db." in said

    far = site.folder / "vault"
    far.mkdir()
    assert vault(site=site.name, return_state=True).is_completed()
    assert site.newest("db").vaults
    shutil.rmtree(far)
    far.symlink_to(site.place)  # the data store by another name
    ended = vault(site=site.name, return_state=True)
    assert ended.is_failed()
    assert "is no second place" in str(ended.message)
    assert not site.newest("db").vaults


def test_what_is_damaged_is_left_out_of_the_vault_and_the_rest_is_recorded(site: Scene) -> None:
    site.back_up("web")
    (pack,) = site.packs()
    content = bytearray(pack.read_bytes())
    content[len(content) // 3] ^= 1  # inside a record, and not between two
    pack.chmod(0o600)
    pack.write_bytes(content)
    site.back_up("db")

    alone = vault(site=site.name, return_state=True)
    job = site.back_up("web", vault=True)
    pack.write_bytes(content[:-9])
    cut_off = vault(site=site.name, return_state=True)

    for ended in (alone, cut_off):
        assert ended.is_failed()
        assert "not copied" in str(ended.message)
        assert "VM 'web'" in str(ended.message)
        assert "VM 'db'" not in str(ended.message)
        assert pack.name not in str(ended.message)
    assert job.name == "CompletedWithErrors"
    assert "1 VM backed up, but" in str(job.message)
    assert [bool(site.listed(vm)[-1].vaults) for vm in ("web", "db")] == [False, True]
    version = site.newest("db").version
    shutil.rmtree(site.place)
    assert site.restore(version, from_vault=True) == site.disks("db")


def test_the_vaults_mark_means_read_back_there_and_it_restores_when_the_store_is_gone(
    site: Scene,
) -> None:
    assert site.back_up("web", "db", vault=True).name == "Completed"
    _the_vault_takes_each_thing_once(site)
    far, key = _a_vault_that_fetches_its_copies_itself_writes_nothing_to_the_data_store(site)
    block = site.site.vault
    assert block is not None

    def marks() -> dict[str, str]:
        now = system_clock()
        rows = [version_row(site.newest(vm), now) for vm in ("web", "db")]
        return {row["VM"]: row["vault"].partition(block.place)[0] for row in rows}

    assert marks() == {"web": "copied: ", "db": "copied: "}
    assert any(
        "0 of 2 versions read back" in line for line in vault_lines(site.site, site.listed())
    )

    found: Any = check_vault(site=site.name)
    assert (found.problems, found.left) == ((), 0)
    assert all(mark.startswith("✅ read back ") for mark in marks().values())
    again: Any = check_vault(site=site.name)
    assert again.objects == 0, "nothing is due"
    assert "opened there with the key" not in "\n".join(vault_lines(site.site, site.listed()))
    proved: Any = check_vault(site=site.name, prove=True)
    assert (proved.problems, proved.objects) == ((), found.objects)
    assert "2 versions opened there with the key, the oldest now." in list(
        vault_lines(site.site, site.listed())
    )
    again = check_vault(site=site.name, prove=True)
    assert again.objects == 0, "no proof is due"

    site.save(vault={"read_back_after": "always"})
    packs = [path for path in (site.folder / "vault" / "packs").glob("*/*") if path.is_file()]
    spoilt = bytearray(packs[0].read_bytes())
    spoilt[len(spoilt) // 2] ^= 1
    packs[0].chmod(0o600)
    packs[0].write_bytes(spoilt)
    ended = check_vault(site=site.name, return_state=True)

    assert ended.is_failed()
    assert packs[0].name in str(ended.message)
    assert all(mark.startswith("✅ read back ") for mark in marks().values()), "copied, read again"
    assert list((site.folder / "vault" / "quarantine").iterdir())
    shutil.rmtree(site.place)
    for vm in ("web", "db"):
        assert site.restore(site.newest(vm).version, from_vault=True) == site.disks(vm)
        (stored,) = site.listed(vm)
        copied = open_store_with_key_file(LocalTransport(far), key)
        assert site.read_back(find_version(copied, stored.version), place=far) == site.disks(vm)


def _the_vault_takes_each_thing_once(site: Scene) -> None:
    far = site.folder / "vault"
    before = sizes(far)

    again: Any = vault(site=site.name)

    assert (again.objects, again.copied_bytes, again.problems) == (0, 0, ())
    assert sizes(far) == before
    assert site.newest("web").vaults


def _a_vault_that_fetches_its_copies_itself_writes_nothing_to_the_data_store(
    site: Scene,
) -> tuple[Path, Path]:
    """Where the vault is, and its key."""
    far, here = site.folder / "far", site.folder / "far-here"
    far.mkdir()
    here.mkdir(mode=0o700)
    key = here / "store.key"
    shutil.copy(site.site.data_store.key_file, key)
    before = sizes(site.place)

    pulls = set_up_pull(
        f"{site.name}-far",
        data_store=DataStoreShare(place=str(site.place), key_file=str(key)),
        vault=Vault(place=str(far)),
        folder=here,
    )
    done: Any = vault(site=pulls.name)
    checked: Any = check_vault(site=pulls.name)

    assert (done.problems, checked.problems) == ((), ())
    assert sizes(site.place) == before
    with pulls.data_store.open() as store, pytest.raises(ShareRefused, match="only read from here"):
        store.for_writing()
    return far, key


def test_what_a_killed_job_never_finished_makes_nothing_fail(site: Scene) -> None:
    assert site.back_up("db", vault=True).name == "Completed"
    head = len(list((site.place / "heads").iterdir())) + 1
    copy = len(list((site.place / "catalog").glob(f"*-{0:04x}"))) + 1
    (of_db,) = (site.place / "versions").glob(f"*/{1:016x}-*")
    for name in (
        f"heads/{head:016x}",
        f"index/{'cd' * 16}",
        *(f"{folder}/{0xFF:016x}" for folder in ("gc", "forgets", "holds", "condemned", "catalog")),
        f"owner/{2:016x}",
        "keys/pub-00000002",
        "keys/slot-00aabbccddeeff00",
        f"catalog/{copy:016x}-0000",
        f"versions/{of_db.parent.name}/{2:016x}-{'ab' * 16}",
    ):
        (site.place / name).parent.mkdir(exist_ok=True)
        (site.place / name).write_bytes(b"")

    assert site.back_up("web", validated=True).name == "Completed"
    for flow in (forget, reclaim, protect, rehearse, vault, check_vault, keep_vault):
        ended = flow(site=site.name, return_state=True)
        assert ended.is_completed(), ended.message

    assert all(row.vaults for row in site.listed("web"))
    assert site.back_up("db", vault=True).name == "Completed"
    assert [row.sequence for row in site.listed("db")] == [2, 1]


def test_a_vault_keeps_by_rules_of_its_own_whatever_the_data_store_keeps(site: Scene) -> None:
    assert site.back_up("db", vault=True).name == "Completed"
    first = site.newest("db").version
    site.pool.write("db", disk=0, offset=0, data=noise("second", 300_000))
    assert site.back_up("db", vault=True).name == "Completed"
    far = site.folder / "vault"

    def there() -> set[str]:
        return {path.name.rpartition("-")[2] for path in (far / "versions").glob("*/*")}

    assert len(there()) == 2
    site.save(vault={"keep": "last 1"})
    kept = keep_vault(site=site.name, return_state=True)
    assert kept.is_completed(), kept.message
    assert str(kept.message).startswith("1 version given up at the vault, 1 kept; ")
    newest = site.newest("db")
    assert there() == {newest.version}
    site.pool.write("db", disk=0, offset=0, data=noise("third", 300_000))
    assert site.back_up("db", vault=True).name == "Completed"

    both = {newest.version, site.newest("db").version}
    assert there() == both, "what it gave up stays away"
    key_file = Path(site.site.data_store.key_file)
    taker = open_store_with_key_file(LocalTransport(site.place), key_file)
    mine = owner_of(taker)
    take_over(taker, random_name(), host="", clock=system_clock)
    refused = keep_vault(site=site.name, return_state=True)
    assert "was taken over" in str(refused.message), "nor does it forget anything at the vault"
    assert there() == both
    take_over(taker, mine, host="", clock=system_clock)
    assert keep_vault(site=site.name, return_state=True).is_completed()
    assert there() == {site.newest("db").version}
    assert [bool(row.vaults) for row in site.listed("db")] == [True, False, False]
    assert check_vault(site=site.name, return_state=True).is_completed()
    with site.store() as store:
        opened = open_store_with_key_file(LocalTransport(far), Path(site.site.data_store.key_file))
        told = list(audit_presence(opened, stop=StopToken()))
        assert {each.weight for each in told} <= {Weight.NOTICE}, told
        assert find_version(store, first).version == first, "the data store keeps what it keeps"
    shutil.rmtree(site.place)
    assert site.restore(site.newest("db").version, from_vault=True) == site.disks("db")


def leave_debris(site: Scene, run: RunId) -> None:
    """What a run that died leaves: a snapshot, an inbox with a pack, scratch."""
    with site.site.xen_pool.open() as xen:
        owner = Owner(site.site.installation, run)
        take_snapshot(xen, find_vm(xen, "db"), owner=owner, label="of a run")
    inbox = site.place / "in" / run
    inbox.mkdir(parents=True)
    (inbox / random_name()).write_bytes(b"half a pack")
    (site.site.catalog.scratch / run / "maps").mkdir(parents=True)


def debris(site: Scene, run: RunId) -> tuple[bool, bool, bool]:
    labels = [
        str(site.pool.db.get("VM", each, "name_label"))
        for each in site.pool.db.where("VM", is_a_snapshot=True)
    ]
    return (
        any(run in label for label in labels),
        (site.place / "in" / run).exists(),
        (site.site.catalog.scratch / run).exists(),
    )


def test_the_sweep_removes_what_a_dead_run_left_and_leaves_everything_else(site: Scene) -> None:
    site.back_up("db")
    dead, alive = RunId(random_name()), RunId(random_name())
    other = Owner(random_name(), RunId(random_name()))
    with site.site.xen_pool.open() as xen:
        take_snapshot(xen, find_vm(xen, "web"), owner=other, label="another installation's")
    with run_claimed(site.site, alive):
        leave_debris(site, dead)
        leave_debris(site, alive)

        report: Any = sweep(site=site.name)

        assert debris(site, dead) == (False, False, False)
        assert debris(site, alive) == (True, True, True)
        assert debris(site, other.run)[0]
    assert report.store.objects == 1
    assert report.scratch == 1
    assert [each.problem for each in report.snapshots] == [""]
    assert site.records_of_changes() == 1
    sweep(site=site.name)
    assert debris(site, alive) == (False, False, False)
    assert debris(site, other.run)[0]
    assert site.restore(site.newest("db").version) == site.disks("db")
