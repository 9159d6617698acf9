"""Static addresses of delegates: one VM each, waited for, never doubled, never leaked."""

import secrets
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from catalog.at_work import Work, list_work
from likeness.model.addresses import AddressGroup
from tasks import page
from tests.flows.background import InTheBackground
from tests.flows.delegate_scene import delegate_scene, left, nothing
from tests.flows.scene import Scene, noise, outcomes
from tests.flows.waiting import wait_until
from tests.smb.server import SmbServer

pytestmark = [pytest.mark.prefect, pytest.mark.smb, pytest.mark.lab]
AT_ONCE = 5


def three() -> list[str]:
    net = f"127.{secrets.randbelow(60) + 1}.{secrets.randbelow(250)}"
    return [f"{net}.{last}" for last in (11, 12, 13)]


def group(*addresses: str, **more: Any) -> list[AddressGroup]:
    return [AddressGroup(addresses=list(addresses), **more)]


@pytest.fixture(scope="module")
def server() -> Generator[SmbServer, None, None]:
    made = SmbServer()
    made.start()
    yield made
    made.remove()


def under_way(scene: Scene) -> list[Work]:
    return [work for work in list_work(scene.site.catalog.file) if work.queue == "commit"]


def alive(scene: Scene) -> list[str]:
    """The delegates of this moment, by the VM each is for."""
    db = scene.pool.db
    names = [db.get("VM", ref, "name_label") for ref in scene.pool.guests.running]
    return sorted(name.removeprefix("ABD for ").split()[0] for name in names)


def addresses_given(scene: Scene) -> list[str]:
    """Each address that a delegate was given, in the order in which it was."""
    given = [
        entry.parameters[1]
        for entry in scene.pool.journal.entries("VM.set_xenstore_data")
        if not entry.failure
    ]
    return [each["vm-data/ip"] for each in given if isinstance(each, dict)]


@pytest.mark.parametrize("count", [6, pytest.param(20, marks=pytest.mark.torture)])
def test_three_addresses_let_three_of_five_in_and_the_others_wait_with_the_reason(
    server: SmbServer, tmp_path: Path, count: int
) -> None:
    names = [f"vm{number:02}" for number in range(count)]
    mine, vms = three(), {name: [noise(name, 64 << 10)] for name in names}
    with delegate_scene(tmp_path, server, vms, delegate_addresses=group(*mine)) as scene:
        pool = scene.pool
        pool.faults.hang("VM.snapshot", times=0)
        job = InTheBackground(scene, *names, concurrency=AT_ONCE, source="enhanced")

        wait_until(lambda: len(pool.journal.entries("Async.VM.snapshot")) == 3, "three in flight")
        wait_until(
            lambda: sum(work.step == "address" for work in under_way(scene)) == 2, "two wait"
        )
        assert len(alive(scene)) == 3
        assert set(alive(scene)) <= set(names[:AT_ONCE])
        said = {work.label.split(" (")[0]: work.label for work in under_way(scene)}
        for name in set(names[:AT_ONCE]) - set(alive(scene)):
            assert "no free ABD address in pool lab: 3 of 3 in use" in said[name]
        for name in alive(scene):
            assert any(f"ABD {address}" in said[name] for address in mine)
        shown = "\n".join(page.queue_lines(under_way(scene), []))
        assert "no free ABD address in pool lab: 3 of 3 in use" in shown
        pool.faults.clear()
        ended = job.ended()

        assert (ended.name, list(outcomes(ended))) == ("Completed", names)
        assert len(addresses_given(scene)) == count
        assert set(addresses_given(scene)) == set(mine)
        assert pool.max_snapshots_at_once <= 3
        assert left(scene) == nothing(scene)


def test_a_job_that_no_address_can_satisfy_is_refused_and_a_delegate_is_on_its_network(
    server: SmbServer, tmp_path: Path
) -> None:
    fields: dict[str, Any] = {
        "delegate_addresses": group(*three(), network="no such VLAN"),
        "delegate_wait_minutes": 1,
    }
    with delegate_scene(tmp_path, server, {"web": [noise("web", 64 << 10)]}, **fields) as scene:
        refused = scene.back_up("web", source="enhanced")

        assert refused.name == "Failed"
        assert "0 networks of the pool have the name or uuid 'no such VLAN'" in str(refused.message)
        assert scene.pool.journal.entries("Async.VM.clone") == []
        _a_delegate_is_on_its_addresss_network_with_its_mac(scene)


def _a_delegate_is_on_its_addresss_network_with_its_mac(scene: Scene) -> None:
    address, mac = three()[0], "02:11:22:33:44:55"
    pool = scene.pool
    network = pool.db.create("network", name_label="VLAN 12", bridge="xapi12")
    scene.save(
        xen_pool={"delegate_addresses": group(address, network="VLAN 12", macs=[mac], dns=[])}
    )

    ended = scene.back_up("web", source="enhanced")

    assert ended.name == "Completed"
    (made,) = pool.journal.entries("VIF.create")
    assert isinstance(made.parameters[0], dict)
    assert (made.parameters[0]["network"], made.parameters[0]["MAC"]) == (network, mac)
    assert addresses_given(scene) == [address]
    assert left(scene) == nothing(scene)
