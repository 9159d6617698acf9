"""One session per job: what a job opens, asks and reads, counted."""

from collections import Counter
from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.client.base import PrefectHttpxSyncClient

from blocks import Site
from blocks.site import ROLES
from catalog import openings
from catalog.connection import reading, shared_openings
from catalog.serving import STILL
from likeness.errors import StoreMissing
from likeness.model.ids import RunId, random_name
from likeness.stopping import StopToken
from likeness.store.format.opening import open_store_with_key_file
from likeness.transport.local import LocalTransport
from likeness.transport.metered import MeteredTransport
from likeness.xen.owner import Owner
from tasks.catch_up import catch_up
from tests.flows.scene import MIB, Scene, noise, open_scene, outcomes
from tests.flows.test_changed_blocks import offer_nbd

pytestmark = [pytest.mark.prefect, pytest.mark.lab]
LOGIN = "session.login_with_password"
WHILE_A_TASK_LASTS = ("event.from", "task.add_to_other_config")


@dataclass
class Counted:
    """What a job did while it was counted.

    Attributes:
        calls: Of the pool, by method.
        stores: How often the store was opened.
        catalogs: How often the catalog was.
        read: Objects of the store, and how often each was read.
        listed: Folders of the store, likewise.
        requests: To Prefect's server, beside the events of steps.
    """

    calls: Counter[str] = field(default_factory=Counter)
    stores: int = 0
    catalogs: int = 0
    read: Counter[str] = field(default_factory=Counter)
    listed: Counter[str] = field(default_factory=Counter)
    requests: Counter[str] = field(default_factory=Counter)

    @property
    def waiting(self) -> int:
        """Calls of the pool that a slow machine makes more of: a task had not ended at once."""
        more_looks = self.calls["task.get_record"] - self.calls["task.destroy"]
        return more_looks + sum(self.calls[each] for each in WHILE_A_TASK_LASTS)

    @property
    def asked(self) -> int:
        """All other calls of the pool."""
        return self.calls.total() - self.waiting

    @property
    def listed_again(self) -> dict[str, int]:
        """Folders that were listed more than once, and how often."""
        return {name: times for name, times in self.listed.items() if times > 1}

    @property
    def logins(self) -> int:
        """How often somebody logged in."""
        return self.calls[LOGIN]


@contextmanager
def counted(site: Scene, patch: pytest.MonkeyPatch) -> Generator[Counted, None, None]:
    """Count what is done while the `with` lasts; everything does what it always does."""
    found = Counted()
    before = Counter(site.pool.journal.counts())
    read, entries = LocalTransport.read, LocalTransport.entries
    folders, listing = LocalTransport.folders, LocalTransport.listing
    attach, send = openings.attach, PrefectHttpxSyncClient.send

    def counting_send(self: PrefectHttpxSyncClient, request: Any, *rest: Any, **more: Any) -> Any:
        found.requests[f"{request.method} {request.url.path}"] += 1
        return send(self, request, *rest, **more)

    def counting_attach(instance: Any, path: Path, **more: Any) -> None:
        found.catalogs += path == site.catalog_file
        attach(instance, path, **more)

    def counting_open(*given: Any) -> Any:
        found.stores += 1
        return open_store_with_key_file(*given)

    def counting(tally: Counter[str], what: Callable[..., Any]) -> Callable[..., Any]:
        def noted(self: LocalTransport, name: str = "", *rest: Any, **more: Any) -> Any:
            tally[name] += 1
            return what(self, name, *rest, **more)

        return noted

    with patch.context() as patched:
        patched.setattr(LocalTransport, "read", counting(found.read, read))
        patched.setattr(LocalTransport, "entries", counting(found.listed, entries))
        patched.setattr(LocalTransport, "folders", counting(found.listed, folders))
        patched.setattr(LocalTransport, "listing", counting(found.listed, listing))
        patched.setattr(openings, "attach", counting_attach)
        patched.setattr(PrefectHttpxSyncClient, "send", counting_send)
        patched.setattr("blocks.data_store.open_store_with_key_file", counting_open)
        yield found
    found.calls = Counter(site.pool.journal.counts()) - before


def looks_that_are_rules(vms: Collection[str], backed_up: Collection[str]) -> dict[str, int]:
    """Which folders a job may list more than once, and exactly how often: each for a reason.

    Args:
        vms: Every VM with versions in the store.
        backed_up: Those of the job.
    """
    signed = 1  # the head signs what is there when it is written, whatever was there before
    seen = 1  # when the job begins
    is_ours = 4 * len(backed_up)  # before a VM's packs, its commit, its record; and after that
    is_ours += 1 + 2  # before the catalog's copy; before a head is begun, and when it is written
    newest = dict.fromkeys(backed_up, 1)  # a VM's last version, once it is the VM's turn
    return {
        "owner": seen + is_ours,
        "keys": seen + signed,
        "versions": seen + signed,
        **{f"versions/{vm}": seen + signed + newest.get(vm, 0) for vm in vms},
    }


@pytest.fixture(scope="module")
def shared(
    tmp_path_factory: pytest.TempPathFactory, prefect_server: None
) -> Generator[Scene, None, None]:
    """One site for whoever only opens it."""
    with open_scene(tmp_path_factory.mktemp("session") / "site") as made:
        yield made


def test_an_unchanged_job_opens_and_asks_once_and_each_further_vm_opens_nothing(
    new_site: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = new_site({name: [noise(name, 1 << 20)] for name in ("web", "db", "mail")})
    offer_nbd(site)
    assert site.back_up("web", "db", "mail").name == "Completed"

    before = {*site.objects()}

    with counted(site, monkeypatch) as one:
        (web,) = outcomes(site.back_up("web")).values()
    with counted(site, monkeypatch) as three:
        assert len(outcomes(site.back_up("web", "db", "mail"))) == 3

    assert (web.new_bytes, web.sent_bytes) == (0, 0)
    print(f"calls of one VM {one.asked}, of three {three.asked}")
    assert (one.stores, one.logins) == (three.stores, three.logins) == (1, 1)
    assert 1 <= min(one.catalogs, three.catalogs) <= max(one.catalogs, three.catalogs) <= 3
    print(f"requests of one VM {one.requests.total()}, of three {three.requests.total()}")
    for found in (one, three):
        assert found.requests["GET /api/admin/storage"] == 0, "no result is kept"
        assert found.requests["POST /api/deployments/filter"] == 1
    assert one.asked <= 45
    assert three.asked - one.asked <= 2 * 30
    assert one.calls["VM.get_record"] == 3  # the VM; its snapshot, when it is made and when it goes
    assert set(one.read) <= before, "what was just written is not read back"
    vms = {stored.vm for stored in site.stored()}
    for found, backed_up in ((one, {web.vm}), (three, vms)):
        assert [name for name, times in found.read.items() if times > 1] == []
        assert found.listed_again == looks_that_are_rules(vms, backed_up)


def test_a_site_is_asked_for_with_two_requests(
    shared: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = shared
    asked: list[str] = []
    send = PrefectHttpxSyncClient.send

    def noted(self: PrefectHttpxSyncClient, request: Any, *rest: Any, **more: Any) -> Any:
        asked.append(f"{request.method} {request.url.path}")
        return send(self, request, *rest, **more)

    monkeypatch.setattr(PrefectHttpxSyncClient, "send", noted)
    found = Site.named(site.name)

    assert [each for each in asked if "/block" in each] == [
        f"GET /api/block_types/slug/likeness-site/block_documents/name/{site.name}",
        "POST /api/block_documents/filter",
    ]
    for role in ("xen-pool", "data-store", "catalog", "vault"):
        kind = ROLES[role.replace("-", "_")]
        assert found.usable(role.replace("-", "_")) == kind.load(f"{site.name}-{role}")


def test_what_is_recorded_from_the_receipt_is_what_the_store_tells(shared: Scene) -> None:
    site = shared
    site.back_up("web", "db")
    site.pool.write("web", disk=0, offset=MIB, data=noise("new", 300 << 10))
    site.pool.write("web", disk=1, offset=0, data=bytes(512 << 10))
    site.back_up("web", "db")
    told = known_blocks(site)

    with site.lost_catalog():
        with site.site.session():
            catch_up(site=site.site)
        assert told == known_blocks(site)
    assert len(told) == 2


def known_blocks(site: Scene) -> list[list[Any]]:
    """What the catalog knows of block maps as they are now, and of packs."""
    with reading(site.site.catalog.file) as connection:
        return [
            connection.execute(query).fetchall()
            for query in (
                f"""SELECT disk_id, position, chunk FROM maps JOIN disks USING (disk_no)
                WHERE until = {STILL} ORDER BY ALL""",
                "SELECT pack_id, digest, size_bytes, chunks, run_id FROM packs ORDER BY ALL",
            )
        ]


def test_a_store_that_is_lost_within_a_session_is_opened_anew_once_it_is_back(
    shared: Scene,
) -> None:
    site = shared
    away = site.folder / "away"
    share = site.site.data_store
    with site.site.session():
        with share.open() as first, share.open() as second:
            assert first is not second
            assert first.transport is second.transport
        site.place.rename(away)
        with pytest.raises(StoreMissing), share.open():
            pass
        away.rename(site.place)
        with share.open() as third:
            assert third.transport is not first.transport
            third.require_unchanged()
    with share.open() as alone:
        assert alone.transport is not third.transport


def test_what_one_step_puts_into_its_store_is_not_in_anothers(shared: Scene) -> None:
    site = shared
    with site.site.session(), site.site.data_store.open() as one:
        one.transport = MeteredTransport(one.transport, folder="packs")
        with site.site.data_store.open() as other:
            assert not isinstance(other.transport, MeteredTransport)


def test_a_login_is_shared_and_each_keeps_its_own_owner_and_stop(shared: Scene) -> None:
    site = shared
    owner, stop = Owner(site.site.installation, RunId(random_name())), StopToken()
    stop.stop()
    before = site.pool.journal.counts()
    with site.site.session():
        pool = site.site.xen_pool
        with pool.open(owner=owner, stop=stop) as ours, pool.open() as plain:
            assert (ours.owner, plain.owner) == (owner, None)
            assert ours.ref == plain.ref
            site.pool.sessions.end_all()
            assert plain.call("pool.get_all_records")
            assert ours.ref == plain.ref
    assert Counter(site.pool.journal.counts())[LOGIN] - before.get(LOGIN, 0) == 2


def test_inside_somebodys_own_flow_no_catalog_stays_open(site: Scene) -> None:
    @flow
    def theirs() -> bool:
        return site.validate().is_completed()

    assert theirs()
    assert shared_openings.of(site.site.catalog.file) is None
