"""A lost installation: back from its store or its vault, and the old one kept out."""

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.schedules import CronSchedule
from prefect.settings import PREFECT_API_URL
from pydantic import SecretStr

from blocks import DataStoreShare, Site, SiteBlock, XenPool
from catalog.values import Verdict
from flows.protect import protect, rehearse
from flows.recover import COMMAND, Recovered, recover
from flows.sweep import sweep
from flows.validate import validate
from flows.vault import vault
from likeness.cli.running import main
from likeness.clock import system_clock
from likeness.codec.slots import SlotKind, from_words
from likeness.errors import StoreSetBack, StoreTakenOver, WrongKey
from likeness.model.ids import random_name
from likeness.store.format import layout
from likeness.store.format.opening import open_store
from likeness.store.prune.sweeping import delete_redundant_packs
from likeness.store.write.heads import write_head
from tasks.installation import KeptInstallation, save_webhook
from tests.flows.scene import MIB, Scene, noise, outcomes, sizes

pytestmark = [pytest.mark.prefect, pytest.mark.lab]
ROOT = Path(__file__).resolve().parents[2]
SMALL = {"web": [noise("web", 2 * MIB)], "db": [noise("db", MIB)]}


def lose(site: Scene) -> None:
    """The machine is gone: its catalog, its key file, its blocks."""
    shutil.rmtree(site.folder / "here")
    SiteBlock.delete(site.name)


def recovered(site: Scene, *, place: Path | None = None, name: str = "", **more: object) -> Scene:
    """The site on another machine, recovered with the words alone."""
    new = more.get("folder") or site.folder / "there"
    found = by_words(site, place=place or site.place, name=name or site.name, folder=new, **more)
    assert found.site is not None
    return Scene(name or site.name, found.site, site.lab, site.folder, site.recovery_words)


def by_words(site: Scene, *, place: Path, name: str, **more: object) -> Recovered:
    folder = Path(str(more.pop("folder", site.folder / "there")))
    words = partial(open_store, opener=from_words(site.recovery_words))
    return recover(
        name,
        open_with=partial(words, kind=SlotKind.RECOVERY_WORDS),
        pool=XenPool(
            url=site.lab.url,
            username=site.lab.username,
            password=SecretStr(site.lab.password),
        ),
        data_store=DataStoreShare(place=str(place), key_file=str(folder / "store.key")),
        folder=folder,
        **more,  # type: ignore[arg-type]
    )


def lists(site: Scene) -> list[tuple[str, int, str]]:
    return [(row.vm_name, row.sequence, row.version) for row in site.listed()]


def spoil(path: Path) -> None:
    """Flip one bit."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)


def catalog_copies(site: Scene) -> list[Path]:
    return sorted(path for path in (site.place / "catalog").iterdir() if "-" not in path.name)


def test_a_lost_installation_comes_back_with_the_words_alone(
    new_site: Callable[..., Scene],
) -> None:
    site = new_site(SMALL)
    assert site.back_up("web", "db", validated=True).name == "Completed"
    site.pool.write("web", disk=0, offset=0, data=noise("night two", 100_000))
    assert site.back_up("web", "db", validated=True).name == "Completed"
    before, old = lists(site), site.site.installation
    ref = site.pool.db.where("VM", name_label="db")[0]
    with site.site.xen_pool.open() as xen:
        xen.call("VM.snapshot", ref, f"db [likeness {old} {random_name()}]")
    assert site.left_in_the_pool()["snapshots"] == 1
    lose(site)

    again = recovered(site)

    assert lists(again) == before
    assert set(again.verdicts()) == {Verdict.UNCHECKED}
    assert again.site.installation != old
    assert sweep(site=site.name, return_state=True).is_completed()
    assert site.left_in_the_pool()["snapshots"] == 0, "what the lost one left in the pool"
    site.pool.write("web", disk=0, offset=MIB, data=noise("night three", 100_000))
    ended = again.back_up("web", "db")
    assert ended.name == "Completed", ended.message
    done = outcomes(ended)
    assert done["web"].read_bytes == 256 << 10, "only what changed was read, and sent"
    assert 100_000 <= done["web"].sent_bytes < 300_000
    assert (done["db"].read_bytes, done["db"].sent_bytes) == (0, 0)
    assert validate(site=site.name, return_state=True).is_completed()
    assert set(again.verdicts()) == {Verdict.GOOD}
    assert again.restore(again.newest("web").version) == site.disks("web")
    assert again.site.data_store.owner() == again.site.installation


def test_from_the_vault_alone(new_site: Callable[..., Scene]) -> None:
    site = new_site(SMALL)
    assert site.back_up("web", "db").name == "Completed"
    assert vault(site=site.name, return_state=True).is_completed()
    before = lists(site)
    lose(site)
    shutil.rmtree(site.place)

    again = recovered(site, place=site.folder / "vault")

    assert lists(again) == before
    for vm in ("web", "db"):
        assert again.restore(again.newest(vm).version) == site.disks(vm)
    assert again.back_up("web", "db").name == "Completed"


def test_damaged_copies_of_the_catalog_are_passed_over(new_site: Callable[..., Scene]) -> None:
    site = new_site({"db": [noise("db", MIB)]})
    for _ in range(3):
        assert site.back_up("db").name == "Completed"
    before, copies = lists(site), catalog_copies(site)
    assert len(copies) == 3
    spoil(copies[2])
    lose(site)

    last = by_words(site, place=site.place, name=site.name)
    SiteBlock.delete(site.name)
    for path in catalog_copies(site):
        if path != copies[2]:
            spoil(path)
    all_of_them = by_words(site, place=site.place, name=site.name, folder=site.folder / "third")

    assert last.memory.startswith("copy 2 of")
    assert all_of_them.memory.startswith("what the data store says")
    assert (last.added, all_of_them.added) == (1, 3)
    for found in (last, all_of_them):
        assert found.left_out == ()
        assert [(row.vm_name, row.sequence, row.version) for row in found.versions] == before
        assert {row.verdict for row in found.versions} == {Verdict.UNCHECKED}


def test_the_old_controller_is_refused_whatever_it_wants_to_write(
    new_site: Callable[..., Scene],
) -> None:
    site = new_site(SMALL)
    assert site.back_up("web", "db").name == "Completed"
    with site.store() as asleep:
        asleep.require_writable()  # it has seen that it is the owner, and wakes up later
        again = recovered(site, name=f"{site.name}-again")
        assert again.back_up("web", "db").name == "Completed"
        before, versions = site.objects(), lists(again)

        pack = asleep.transport
        with pytest.raises(StoreTakenOver, match="was taken over by installation"):
            write_head(asleep, clock=system_clock)
        with pytest.raises(StoreTakenOver):
            delete_redundant_packs(asleep, dict, reason="spare", clock=system_clock)
        with pytest.raises(StoreTakenOver), asleep.again() as second:
            second.for_writing()
        assert pack is asleep.transport

    site.pool.write("web", disk=0, offset=0, data=noise("late", 100_000))
    ended = site.back_up("web", "db")
    assert ended.is_failed()
    assert {"taken over" in each.sentence for each in outcomes(ended).values()} == {True}
    vault(site=site.name, return_state=True)
    assert list((site.folder / "vault").rglob("*-*")) == [], "not one version went to the vault"
    assert site.objects() == before
    assert lists(again) == versions
    assert site.left_in_the_pool()["snapshots"] == 0
    assert again.back_up("web", "db").name == "Completed"


def test_a_vault_that_somebody_took_over_takes_nothing_from_the_old_store(
    new_site: Callable[..., Scene],
) -> None:
    site = new_site({"db": [noise("db", MIB)]})
    assert site.back_up("db").name == "Completed"
    assert vault(site=site.name, return_state=True).is_completed()
    place = site.folder / "vault"
    recovered(site, place=place, name=f"{site.name}-again")
    before = sizes(place)
    assert site.back_up("db").name == "Completed"

    ended = vault(site=site.name, return_state=True)

    assert not ended.is_completed()
    assert sizes(place) == before


def test_a_rehearsal_by_hand_or_on_a_schedule_changes_nothing_nor_do_wrong_words(
    new_site: Callable[..., Scene],
) -> None:
    site, other = new_site(SMALL), new_site({})
    assert site.back_up("web", "db").name == "Completed"
    before, owner = sizes(site.folder), site.site.data_store.owner()

    found = by_words(site, place=site.place, name=f"{site.name}-again", dry_run=True)

    assert found.site is None
    assert [row.version for row in found.versions] == [row.version for row in site.listed()]
    assert found.jobs == {"nightly": ("web", "db")}
    assert found.head.startswith("head ")
    _, number, digits = found.head.split()
    again = partial(by_words, site, place=site.place, name=f"{site.name}-again", dry_run=True)
    assert again(expected_head=(int(number), digits)).head == found.head
    with pytest.raises(StoreSetBack, match=r"head 999 a1b2c3d4 of the last report is missing"):
        again(expected_head=(999, "a1b2c3d4"))
    with pytest.raises(WrongKey):
        by_words(other, place=site.place, name="x", folder=other.folder / "there")
    assert not (other.folder / "there").exists()
    assert sizes(site.folder) == before
    _a_rehearsal_on_a_schedule_proves_that_all_would_come_back(site)
    assert site.site.data_store.owner() == owner


def _a_rehearsal_on_a_schedule_proves_that_all_would_come_back(site: Scene) -> None:
    before = site.objects()

    proved = rehearse(site=site.name, return_state=True)

    assert proved.is_completed(), proved.message
    assert str(proved.message).startswith("2 versions come back of copy ")
    assert site.objects() == before
    assert site.back_up("db").name == "Completed"
    for path in catalog_copies(site):
        spoil(path)
    for path in (site.place / "versions").glob("*/*"):
        path.rename(site.folder / path.name)
        break
    failed = rehearse(site=site.name, return_state=True)
    assert failed.is_failed()
    assert "no copy of the catalog is of use" in str(failed.message)
    assert "lacks 1 version" in str(failed.message)


def test_logins_settings_and_jobs_come_back_with_the_words(new_site: Callable[..., Scene]) -> None:
    site = new_site({"db": [noise("db", MIB)]})
    hook = CustomWebhookNotificationBlock(
        name="ops", url="https://hooks.example/T0/secret", json_data={"text": "{{subject}}"}
    )
    hook.save("ops", overwrite=True)
    site.set(alarm_after_hours=48, webhook="custom-webhook/ops")
    job = {"name": f"nightly-{site.name}", "vms": ["db"]}
    with get_client(sync_client=True) as client:
        flow = client.create_flow_from_name("backup-job")
        made = client.create_deployment(
            flow_id=flow,
            name=str(job["name"]),
            entrypoint="flows.backup.backup_job",
            parameters={"job": job, "site": site.name},
            schedules=[
                DeploymentScheduleCreate(
                    schedule=CronSchedule(cron="0 22 * * *", timezone="UTC"), active=True
                )
            ],
        )
    assert protect(site=site.name, return_state=True).is_completed()
    assert site.back_up("db").name == "Completed"
    copies = [path.read_bytes() for path in (site.place / "catalog").iterdir()]
    for secret in (site.lab.password, hook.url):
        assert not any(secret.encode() in copy for copy in copies)
    with get_client(sync_client=True) as client:
        client.delete_deployment(made)
    CustomWebhookNotificationBlock.delete("ops")
    lose(site)
    folder = site.folder / "there"
    opener = partial(open_store, opener=from_words(site.recovery_words))

    found = recover(
        site.name,
        open_with=partial(opener, kind=SlotKind.RECOVERY_WORDS),
        data_store=DataStoreShare(place=str(site.place), key_file=str(folder / "store.key")),
        folder=folder,
    )

    assert (found.left_out, found.kept) == ((), True)
    assert found.deployments == (f"backup-job/{job['name']}",)
    again = Scene(site.name, Site.named(site.name), site.lab, site.folder, site.recovery_words)
    assert again.site.xen_pool.password.get_secret_value() == site.lab.password
    assert again.site.vault is not None
    assert (again.site.alarm_after_hours, again.site.webhook) == (48, "custom-webhook/ops")
    hook_again: Any = CustomWebhookNotificationBlock.load("ops")
    assert hook_again.url == hook.url
    hook_again.url = "https://hooks.example/newer"
    hook_again.save("ops", overwrite=True)
    kept = KeptInstallation(settings={"webhook": "custom-webhook/ops"}, webhook={"url": hook.url})
    assert save_webhook(kept) == "", "what is there already stays"
    hook_again = CustomWebhookNotificationBlock.load("ops")
    assert hook_again.url == "https://hooks.example/newer"
    kept.settings["webhook"] = "of-no-package/ops"
    assert save_webhook(kept).startswith("webhook of-no-package/ops: No block class found")
    with get_client(sync_client=True) as client:
        there = client.read_deployment_by_name(found.deployments[0])
    assert there.parameters["job"] == job
    (schedule,) = there.schedules
    assert (schedule.active, schedule.schedule.model_dump()["cron"]) == (True, "0 22 * * *")
    assert again.back_up("db").name == "Completed"


def test_a_recovery_that_was_cut_short_is_gone_on_with(
    new_site: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = new_site({"db": [noise("db", MIB)]})
    assert site.back_up("db").name == "Completed"
    before = lists(site)
    lose(site)
    with monkeypatch.context() as patch:
        patch.setattr("flows.recovering.save_site", _stop)
        with pytest.raises(KeyboardInterrupt):
            recovered(site)

    again = recovered(site)

    assert lists(again) == before
    owners = [p.name for p in sorted((site.place / "owner").iterdir()) if "-" not in p.name]
    assert owners == [layout.numbered("x", each)[2:] for each in (1, 2)]
    assert again.back_up("db").name == "Completed"


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


def test_the_commands_of_the_recovery_page(
    new_site: Callable[..., Scene],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    site = new_site({"db": [noise("db", MIB)]})
    assert site.back_up("db").name == "Completed"
    lose(site)
    name, folder = site.name, site.folder / "there"

    words = ["--name", name, "--pool", site.lab.url, "--account", site.lab.username]
    words += ["--store", str(site.place), "--folder", str(folder)]
    words += ["--vault", str(site.folder / "vault")]
    entered = f"{site.lab.password}\n{site.recovery_words}\n"

    def in_this_process(*more: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(entered))
        code = main([*words, *more], COMMAND)
        return code, *capsys.readouterr()

    code, out, err = in_this_process("--dry-run")
    assert code == 0, err
    assert "REHEARSAL: nothing was changed" in out
    assert not folder.exists()

    done = subprocess.run(
        [sys.executable, "-m", "flows.recover", *words],
        cwd=ROOT,
        env={**os.environ, "PREFECT_API_URL": str(PREFECT_API_URL.value())},
        input=entered,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "  versions      1, unchecked until they are validated\n    db: 1" in done.stdout
    assert "    nightly: db" in done.stdout
    some = " ".join(site.recovery_words.split()[:2])  # one of them alone is a word like any other
    assert some not in " ".join(done.stdout.split())
    assert (folder / "store.key").stat().st_mode & 0o777 == 0o600
    assert Site.named(name).vault is not None

    code, _, err = in_this_process()
    assert code == 2
    assert "holds a catalog already" in err
