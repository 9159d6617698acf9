"""From policy to free space by the flows: preview, forget, take back, reclaim, and what stays."""

import errno
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from catalog.forgotten import REMEMBERED, drop_forgotten
from catalog.incidents import list_incidents
from catalog.space import Freed
from catalog.values import Verdict
from flows.forget import forget
from flows.pin import pin
from flows.reclaim import reclaim, undelete
from flows.vault import vault
from likeness.clock import system_clock
from likeness.errors import BadInput, ReclaimStopped, UnknownVersion, UnknownVm
from likeness.model.ids import as_uuid
from likeness.stopping import StopToken
from likeness.store.check.auditing import audit_presence
from likeness.store.format.observations import Weight
from tasks.claims import version_read, vm_claimed
from tasks.forget import plan_forget
from tasks.pins import moment_of
from tasks.space_pages import forget_page
from tests.flows.scene import MIB, Scene, noise
from tests.flows.test_parameters import DEPLOYMENTS
from tests.flows.test_validate import artifacts

pytestmark = [pytest.mark.prefect, pytest.mark.lab]
CHUNK = 256 << 10


def nights(site: Scene, count: int) -> list[list[str]]:
    """Each night the first data block of `web` is another one; its disk afterwards."""
    disks = []
    for night in range(count):
        site.pool.write("web", disk=0, offset=0, data=noise(f"night {night}", CHUNK))
        assert site.back_up("web", keep="last 2").name == "Completed"
        disks.append(site.disks("web"))
    return disks


def ran(flow: Any, *what: str, site: Scene, **more: Any) -> Any:
    """What a flow gives."""
    return flow(*what, site=site.name, **more)


def as_deployed(name: str, *, site: Scene) -> Any:
    """What a deployment's flow gives with the parameters that its form shows, run as they are."""
    (parameters,) = (each["parameters"] for each in DEPLOYMENTS if each["name"] == name)
    return forget(**{**parameters, "site": site.name})


def shown(key: str, *, site: Scene) -> str:
    """The page of that name in the UI."""
    (only,) = artifacts(site.site.key_of(key))
    return str(only.data)


def damage(site: Scene) -> list[str]:
    with site.store() as store:
        found = list(audit_presence(store, stop=StopToken()))
    return [str(each) for each in found if each.weight is not Weight.NOTICE]


def packs_bytes(site: Scene) -> int:
    return sum(path.stat().st_size for path in site.packs())


def test_what_a_policy_does_not_keep_goes_to_the_byte(
    new_site: Callable[..., Scene], later: Callable[[int], None]
) -> None:
    site = new_site({"web": [noise("web", MIB)]})
    disks = nights(site, 4)
    versions = [row.version for row in reversed(site.listed("web"))]
    whole_vm = plan_forget(site.site, versions=versions)
    assert [each.version.version for each in whole_vm.going] == versions[:3]
    assert "the last one that may restore" in forget_page(whole_vm), "none is proved yet"
    ran(pin, versions[0][:8], note="kept for the audit\n| of 2199", site=site)
    before = packs_bytes(site)

    preview = as_deployed("forget-preview", site=site)

    assert [each.version.version for each in preview.going] == [versions[1]]
    page = shown("forget-preview", site=site)
    assert page == forget_page(preview)
    assert f"{preview.freed.packs_bytes:,} bytes" in page
    assert "pinned: kept for the audit ¦ of 2199 |" in page
    assert "last 2 (job nightly)" in page
    with version_read(site.site, versions[2]):
        assert len(plan_forget(site.site, keep="last 1", vms=["web"]).going) == 1
    assert len(plan_forget(site.site, keep="last 1", vms=["web"]).going) == 2
    with pytest.raises(BadInput, match="'nonsense' is no policy"):
        plan_forget(site.site, keep="nonsense")
    assert len(site.listed()) == 4

    done = as_deployed("forget", site=site)
    assert (done.going, done.freed) == (preview.going, preview.freed), "it says what it does"
    assert shown("forgotten", site=site) == page.replace("would be", "were")
    freed = 0
    for days in (0, 1, 8):
        later(days)
        done = ran(reclaim, site=site, most_percent=100)
        freed += sum(done.deleted.values())

    assert freed == preview.freed.packs_bytes == before - packs_bytes(site) > 0
    assert [row.version for row in site.listed("web")] == [versions[3], versions[2], versions[0]]
    assert damage(site) == []
    assert site.validate().name == "Completed"
    assert set(site.verdicts()) == {Verdict.GOOD}
    assert list_incidents(site.site.catalog.file) == []
    assert site.restore(versions[0]) == disks[0]
    locked = ran(pin, versions[0][:8], until="2199-01-01T05:00+05:00", lock=True, site=site)
    assert locked.endswith("is locked until 2199-01-01 00:00 UTC")
    lifted = ran(pin, versions[0][:8], lift=True, site=site)
    assert lifted.endswith("is not pinned any more; it is locked until 2199-01-01 00:00")
    with vm_claimed(site.site, site.newest("web").vm, "web"):
        done = ran(forget, site=site, keep="last 1", preview=False)
    assert (done.going, done.freed) == ((), Freed()), "it says what it did"
    by_hand = plan_forget(site.site, versions=[row.version for row in site.listed("web")])
    assert [each.version.version for each in by_hand.going] == [versions[2]]
    assert "known to restore" in forget_page(by_hand)


def test_a_pack_that_holds_little_is_rewritten_and_goes(
    new_site: Callable[..., Scene], later: Callable[[int], None]
) -> None:
    site = new_site({"web": [noise("web", MIB)]})
    site.back_up("web", keep="last 1", validated=True)
    (first,) = site.packs()
    site.pool.write("web", disk=0, offset=CHUNK, data=noise("later", 3 * CHUNK))
    site.back_up("web", keep="last 1", validated=True)
    done = ran(forget, site=site, preview=False)
    assert done.freed.packs_bytes == 0 < done.freed.exclusive_bytes
    assert "goes once less than 70% of that pack is needed" in forget_page(done)
    before = packs_bytes(site)

    done = ran(reclaim, site=site)
    assert len(done.rewritten) == 1
    assert CHUNK < done.moved_bytes < 2 * CHUNK
    assert site.verdicts() == [Verdict.GOOD]
    for days in (1, 8):
        later(days)
        assert ran(reclaim, site=site).rewritten == []

    assert not first.exists()
    assert packs_bytes(site) < before - 2 * CHUNK
    assert site.restore(site.newest("web").version) == site.disks("web")
    assert damage(site) == []
    site.forget_catalog()
    assert site.validate().name == "Completed"
    assert site.verdicts() == [Verdict.GOOD]
    assert list_incidents(site.site.catalog.file) == []


def test_what_a_job_left_that_never_got_to_its_index_goes(
    new_site: Callable[..., Scene],
    later: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = new_site({"web": [noise("web", MIB)]})
    with monkeypatch.context() as broken:
        broken.setattr("likeness.store.write.commit.write_index", _no_index)
        assert site.back_up("web").name == "Failed"
    (left,) = site.packs()
    assert site.back_up("web", validated=True).name == "Completed"

    note = site.site.catalog.file.path.with_name("unknown-packs.json.new")
    note.mkdir()  # it cannot be written, and the reclaim goes on
    assert ran(reclaim, site=site, most_percent=100).condemned == []
    note.rmdir()
    condemned = []
    for days in (0, 1, 5, 10):
        later(days)
        condemned.append(ran(reclaim, site=site, most_percent=100).condemned)

    assert [len(each) for each in condemned] == [0, 1, 0, 0], "a commit may be under way at first"
    assert not left.exists()
    assert site.restore(site.newest("web").version) == site.disks("web")
    assert damage(site) == []


def _no_index(*_: object, **__: object) -> None:
    raise OSError(errno.EIO, "the process is gone")


def test_a_name_that_two_vms_bear_gives_up_nothing(new_site: Callable[..., Scene]) -> None:
    site = new_site({"web": [CHUNK], "copy": [CHUNK]})
    site.back_up("web", "copy")
    site.pool.db.put("VM", site.pool.vm("copy"), name_label="web")
    copy = as_uuid(site.newest("copy").vm)
    site.back_up(copy)

    with pytest.raises(BadInput, match=rf"2 VMs with versions are called 'web'.*{copy}"):
        plan_forget(site.site, keep="last 1", vms=["web"])
    assert len(plan_forget(site.site, keep="last 1", vms=[copy]).going) == 1
    with pytest.raises(UnknownVm, match="did you mean 'web'"):
        plan_forget(site.site, vms=["wbe"])


def test_a_lock_that_vanished_is_missed_until_a_person_has_seen_to_it(
    new_site: Callable[..., Scene],
) -> None:
    site = new_site({"web": [noise("web", MIB)]})
    nights(site, 2)
    first = site.listed("web")[-1].version
    ran(pin, first[:8], until="90", lock=True, site=site)
    site.back_up("web")
    (lost,) = filter(Path.is_file, (site.place / "holds").rglob("*"))
    kept = lost.rename(site.folder / "lost")
    site.back_up("web", validated=True)

    assert any("holds/" in said and "is pinned anew" in said for said in damage(site))
    for keep in ("", "last 1"):
        with pytest.raises(ReclaimStopped, match="a pin or a lock is gone"):
            ran(forget, site=site, keep=keep, preview=False)
    kept.rename(lost)
    assert first in {row.version for row in site.listed("web")}
    assert first not in {e.version.version for e in ran(forget, site=site, keep="last 1").going}

    lost.unlink()
    said = ran(pin, first[:8], site=site)
    assert said.endswith("is pinned; gone from the store, and given up: 1 earlier pin")
    site.back_up("web")
    assert damage(site) == []
    assert len(ran(forget, site=site, keep="last 1", preview=False).going) == 2


@pytest.mark.parametrize("said", ["²", "2027-02-30", "9999-12-31T23:00-05:00", "soon"])
def test_what_is_no_moment_is_refused_in_words(said: str) -> None:
    with pytest.raises(BadInput, match="is no moment: give a day"):
        moment_of(said, system_clock())


@pytest.mark.torture
def test_the_long_way(new_site: Callable[..., Scene], later: Callable[[int], None]) -> None:
    """With a vault, a version taken back, and a catalog that is lost."""
    site = new_site({"web": [noise("web", MIB)], "db": [noise("db", MIB)]})
    disks = nights(site, 5)
    assert site.back_up("db", name="other", validated=True).name == "Completed"
    versions = [row.version for row in reversed(site.listed("web"))]
    assert vault(site=site.name, return_state=True).is_completed()
    web = site.newest("web").vm

    with vm_claimed(site.site, web, "web"):
        assert ran(forget, site=site, preview=False).going == ()
    done = ran(forget, site=site, preview=False)
    assert [each.version.version for each in done.going] == versions[2::-1]
    assert damage(site) == []
    site.revalidate_always()
    assert site.validate().name == "Completed"
    assert list_incidents(site.site.catalog.file) == []
    assert vault(site=site.name, return_state=True).is_completed()
    vaulted = site.folder / "vault" / "versions" / web
    assert len(list(vaulted.iterdir())) == 5, "the vault keeps what it has"

    condemned = ran(reclaim, site=site, most_percent=100).condemned
    assert len(condemned) == 2, "the first night's pack has what all later versions need, too"
    ran(undelete, versions[2][:8], site=site)
    assert versions[2] in {row.version for row in site.listed("web")}
    assert site.validate().name == "Completed"
    assert site.restore(versions[2]) == disks[2]
    ran(forget, site=site, preview=False)
    for days in (0, 1, 8, 9, 17):
        later(days)
        ran(reclaim, site=site, most_percent=100)
    with pytest.raises(UnknownVersion):
        ran(undelete, versions[2][:8], site=site)
    assert site.back_up("web", "db", validated=True).name == "Completed"
    assert site.restore(site.newest("web").version) == site.disks("web")

    site.forget_catalog()
    assert site.validate().name == "Completed"
    assert list_incidents(site.site.catalog.file) == []
    assert len(site.listed("web")) == 3


@pytest.mark.torture
def test_a_version_that_left_the_catalog_long_ago_is_taken_back_from_the_store(
    new_site: Callable[..., Scene],
) -> None:
    site = new_site({"web": [noise("web", MIB)]})
    disks = nights(site, 4)
    versions = [row.version for row in reversed(site.listed("web"))]
    assert len(ran(forget, site=site, preview=False).going) == 2
    long_after = system_clock() + REMEMBERED + timedelta(days=1)
    assert drop_forgotten(site.site.catalog.file, long_after) > 0

    ran(undelete, versions[1][:8], site=site)

    assert {row.version for row in site.listed("web")} == {*versions[1:]}
    assert site.validate().name == "Completed"
    assert set(site.verdicts()) == {Verdict.GOOD}
    assert site.restore(versions[1]) == disks[1]
    assert site.back_up("web", validated=True).name == "Completed"
    assert site.restore(site.newest("web").version) == site.disks("web")
    assert damage(site) == []
