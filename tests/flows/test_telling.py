"""Every flow that ends badly tells somebody; pages are never green about what is not known."""

import os
import shutil
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import SecretStr

from blocks.site import SiteBlock
from catalog.audits import open_troubles
from catalog.messages import undelivered
from catalog.values import Verdict
from flows.doctor import examine_site
from flows.restore import restore_disks
from flows.sweep import sweep
from flows.unprotected import unprotected
from flows.validate import validate
from flows.vault import refill, vault
from likeness.store.format import layout
from tests.flows.scene import Scene, outcomes
from tests.flows.test_validate import artifacts, flip
from tests.validation.mail_server import MailServer

pytestmark = [pytest.mark.prefect, pytest.mark.lab]


def subjects(server: MailServer) -> list[str]:
    return [str(mail["Subject"]).removeprefix("Likeness: ") for mail in server.inbox]


def page(site: Scene, key: str) -> str:
    newest = max(artifacts(f"{key}-{site.name}"), key=lambda each: str(each.created))
    return f"{newest.description}\n{newest.data}"


def test_the_doctor_sends_a_test_and_each_flow_that_fails_tells_of_the_same_cause_once(
    site: Scene, mailed: MailServer
) -> None:
    examine_site(site=site.name, return_state=True)
    assert subjects(mailed) == []
    examine_site(site=site.name, send=True, return_state=True)
    assert subjects(mailed) == [f"a test message of site {site.name}"]
    assert "sent to " in page(site, "doctor")

    site.back_up("db")
    away = site.place.rename(site.folder / "away")
    calls: dict[str, Callable[[], Any]] = {
        "validate": lambda: validate(site=site.name, return_state=True),
        "vault": lambda: vault(site=site.name, return_state=True),
        "restore": lambda: restore_disks("0123abcd", "/r", site=site.name, return_state=True),
        "sweep": lambda: sweep(site=site.name, return_state=True),
        "job nightly": lambda: site.back_up("db"),
    }
    for what, call in calls.items():
        for _ in range(2):
            assert call().is_failed()
        told = [each for each in subjects(mailed) if each.startswith(what)]
        by_hand = what in ("restore", "job nightly")
        assert len(told) == (2 if by_hand else 1), (what, subjects(mailed))
    site.save(xen_pool={"password": SecretStr("another")})
    assert unprotected(site=site.name, return_state=True).is_failed()
    assert any(each.startswith("unprotected") for each in subjects(mailed))
    os.truncate(site.site.catalog.file.path, 5000)  # and nothing is left to keep a message in
    before = len(mailed.inbox)
    assert site.back_up("db").is_failed()
    assert [each.split(":")[0] for each in subjects(mailed)[before:]] == ["job nightly"]
    away.rename(site.place)


def test_of_a_store_that_is_gone_people_are_told_what_is_known_and_what_is_safe(
    site: Scene, mailed: MailServer
) -> None:
    assert site.back_up("web", "db", validated=True, vault=True).name == "Completed"
    version = site.newest("db").version
    refused = refill(site=site.name, return_state=True)
    assert refused.is_failed()
    assert "there is a data store at" in str(refused.message)
    shutil.rmtree(site.place)

    site.back_up("db")

    body = mailed.inbox[-1].get_content()
    assert "as they were" not in body
    assert "create one" not in body
    assert "Do not make an empty store in its place" in body
    assert f"go on from the vault {site.site.vault.place}" in body  # type: ignore[union-attr]
    assert f"VM db: version {version[:8]}" in body
    for key in ("versions", "dashboard"):
        said = page(site, key)
        assert "cannot be opened" in said
    assert "✅" not in page(site, "versions")
    assert "| ❌ | job nightly |" in page(site, "dashboard")
    # and what was advised works
    assert "start the deployment refill" in body
    site.place.mkdir()
    _is_filled_from_the_vault_and_the_next_backup_goes_on(site)


def _is_filled_from_the_vault_and_the_next_backup_goes_on(site: Scene) -> None:
    filled = refill(site=site.name, return_state=True)

    assert filled.is_completed(), filled.message
    assert set(site.verdicts()) == {Verdict.UNCHECKED}
    ended = site.back_up("web", "db")
    assert ended.name == "Completed", ended.message
    assert {each.sent_bytes for each in outcomes(ended).values()} == {0}
    assert site.validate().is_completed()
    assert set(site.verdicts()) == {Verdict.GOOD}
    for vm in ("web", "db"):
        for row in site.listed(vm):
            assert site.restore(row.version) == site.disks(vm)


def test_one_vm_is_checked_now_and_the_card_shows_no_mark_that_counts_nothing_and_keeps_few(
    site: Scene,
) -> None:
    site.back_up("web", "db", validated=True)
    assert page(site, "versions").startswith("✅ all 2 proved · as of ")
    _one_vm_is_checked_now_whatever_the_age_by_name_or_uuid(site)
    for _ in range(2):
        site.validate()
    assert len(artifacts(f"dashboard-{site.name}")) <= 5
    pack = max(site.packs(), key=lambda path: path.stat().st_size)
    flip(pack, pack.stat().st_size // 2)

    spare = site.place / layout.FORMAT_COPIES[1]
    aside = spare.rename(site.folder / "aside")

    assert site.validate().is_completed(), "it was proved a moment ago"
    assert open_troubles(site.site.catalog.file) == [], "that was looked at today"
    found = site.validate(everything=True)

    aside.rename(spare)
    (missed,) = open_troubles(site.site.catalog.file)
    assert missed.name == layout.FORMAT_COPIES[1]
    assert found.is_failed()
    assert page(site, "versions").startswith("❌ 1 damaged · ✅ 1 proved · as of ")
    later = site.validate()
    assert "still open: incident 1 (1 version red: web)" in str(later.message)


def _one_vm_is_checked_now_whatever_the_age_by_name_or_uuid(site: Scene) -> None:
    (row,) = site.listed("db")
    unknown = site.validate(vm="nobody")
    assert "no VM 'nobody' has a version here" in str(unknown.message)
    for name in ("db", row.vm):
        ended = site.validate(vm=name)
        assert ended.is_completed()
        assert str(ended.message).startswith("1 version good, ")
        assert "0 B proved" not in str(ended.message)


def test_a_mail_block_that_cannot_be_used_keeps_no_backup_from_running_and_its_mails_wait(
    site: Scene,
) -> None:
    saved: Any = SiteBlock.load(site.name)
    saved.mail = "nobody-made-it"
    saved.save(site.name, overwrite=True)

    ended = site.back_up("db", "nobody")

    assert ended.name == "CompletedWithErrors"
    assert outcomes(ended)["db"].version
    (waiting,) = undelivered(site.site.catalog.file)
    assert waiting.message.subject == "Likeness: job nightly: 1 of 2 VMs failed"
    assert "nobody-made-it" in waiting.problem
