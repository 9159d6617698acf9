"""Source *enhanced*: a delegate VM reads the frozen disks and sends them; nothing stays behind."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from blocks import DataStoreShare, XenPool
from catalog.values import Verdict
from flows.set_up import set_up_site
from flows.sweep import sweep
from lab.pool import Pool
from lab.serving import LabServer
from lab.settings import Settings
from likeness.model.ids import RunId
from likeness.model.outcome import VmState
from likeness.xen.delegates import DEFAULT_TAG, own_disks
from likeness.xen.marks import DELEGATE, Owner, label_of, put_marks
from tests.flows.scene import MIB, NOTHING_LEFT, QUICK, Scene, image, noise, outcomes
from tests.smb.server import SmbServer

pytestmark = [pytest.mark.prefect, pytest.mark.smb, pytest.mark.lab]

WEB = (noise("web", 24 * MIB) + bytes(8 * MIB), noise("logs", 3 * MIB + 512))


@pytest.fixture
def server() -> Generator[SmbServer, None, None]:
    made = SmbServer()
    made.start()
    yield made
    made.remove()


@pytest.fixture
def scene(server: SmbServer, prefect_server: None, tmp_path: Path) -> Generator[Scene, None, None]:
    """A VM, a template for delegates, and a site that keeps versions on a share."""
    pool = Pool(Settings(**QUICK, guest_tag=DEFAULT_TAG))
    pool.add_vm("web", [image(tmp_path, f"web-{at}", disk) for at, disk in enumerate(WEB)])
    pool.add_vm("abd", [2 * MIB], power_state="Halted", tags=[DEFAULT_TAG])
    pool.db.put("VM", pool.db.where("VM", name_label="abd")[0], is_a_template=True)
    (tmp_path / "here").mkdir()
    with LabServer(pool) as lab:
        name = f"enhanced-{tmp_path.name[-40:].replace('_', '-')}"
        made = set_up_site(
            name,
            pool=XenPool(url=lab.url, username=lab.username, password=SecretStr(lab.password)),
            data_store=DataStoreShare(
                place=f"smb://127.0.0.1:{server.port}/ads/store",
                username=server.username,
                password=SecretStr(server.password),
                key_file=str(tmp_path / "here" / "store.key"),
                drop_box_username=server.username,
                drop_box_password=SecretStr(server.password),
            ),
            folder=tmp_path / "here",
        )
        yield Scene(name, made.site, lab, tmp_path, made.recovery_words)
        pool.guests.close()


def left(scene: Scene) -> dict[str, int]:
    db = scene.pool.db
    return scene.left_in_the_pool() | {
        "delegates": sum("ABD for" in db.get("VM", ref, "name_label") for ref in db.refs("VM")),
        "guests": len(scene.pool.guests.running),
        "disks of VMs": len(db.where("VDI", is_a_snapshot=False, managed=True)),
    }


NOTHING = NOTHING_LEFT | {"delegates": 0, "guests": 0, "disks of VMs": 3}


def read_from_the_pool(scene: Scene) -> int:
    return sum(scene.pool.counters()["exported_bytes"].values())


def test_a_vm_through_a_delegate_validates_and_restores_bit_for_bit(scene: Scene) -> None:
    before = scene.disks("web")
    first = scene.back_up("web", validated=True, source="enhanced")
    scene.pool.write("web", disk=0, offset=5 * MIB, data=noise("new", 256 << 10))
    after = scene.disks("web")
    (second,) = outcomes(scene.back_up("web", validated=True, source="enhanced")).values()

    assert (first.name, first.message) == ("Completed", "1 VM backed up")
    assert scene.verdicts() == [Verdict.GOOD] * 2
    assert [scene.restore(row.version) for row in scene.listed("web")] == [after, before]
    assert read_from_the_pool(scene) == 0
    assert 0 < second.sent_bytes < MIB
    assert left(scene) == NOTHING
    scene.back_up("web")
    assert read_from_the_pool(scene) > 0


def test_a_killed_agent_fails_its_vm_and_leaves_nothing(scene: Scene) -> None:
    scene.pool.guests.faults.kill_after_seconds = 1.5

    (outcome,) = outcomes(scene.back_up("web", source="enhanced", bandwidth_mib=1)).values()

    assert outcome.state is VmState.FAILED
    assert "the agent ended before it was done" in outcome.sentence
    assert left(scene) == NOTHING
    assert scene.stored() == []


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"blocked_ports": "share"}, "seen from its delegate"),
        ({"refuse_ssh": True}, "cannot be logged in to"),
    ],
)
def test_no_snapshot_is_taken_before_the_delegate_reaches_the_share(
    scene: Scene, server: SmbServer, fault: dict[str, Any], said: str
) -> None:
    for name, value in fault.items():
        setattr(scene.pool.guests.faults, name, [server.port] if value == "share" else value)

    (outcome,) = outcomes(scene.back_up("web", source="enhanced")).values()

    assert outcome.state is VmState.FAILED
    assert said in outcome.sentence
    assert scene.pool.counters()["most_snapshots_at_once"] == 0
    assert left(scene) == NOTHING


def test_what_cannot_be_done_through_a_delegate_is_refused(scene: Scene) -> None:
    def said(**job: Any) -> str:
        (outcome,) = outcomes(scene.back_up("web", source="enhanced", **job)).values()
        assert outcome.state is VmState.FAILED
        return outcome.sentence

    assert "choose source direct" in said(consistency="memory")
    scene.save(xen_pool={"delegate_template": "no-such-tag"})
    assert "no template has the tag or uuid 'no-such-tag'" in said()
    scene.save(data_store={"drop_box_username": ""})
    assert "names no account of delegates" in said()


def test_the_sweep_removes_delegates_of_dead_runs(scene: Scene) -> None:
    db = scene.pool.db
    with scene.site.xen_pool.open() as xen:
        run = "ab" * 16
        owner = Owner(scene.site.installation, RunId(run))
        label = label_of(owner, "ABD for web")
        (template,) = db.where("VM", name_label="abd")
        early, late = (xen.call("VM.clone", template, label) for _ in range(2))
        put_marks(xen, "VM", late, owner=owner, kind=DELEGATE)
        for disk in own_disks(xen, late):
            put_marks(xen, "VDI", disk, owner=owner, kind=DELEGATE)
        mine = xen.call("VM.clone", late, label)
        xen.call("VM.provision", late)
        xen.call("VM.start", late, False, False)  # noqa: FBT003  # as XAPI has it
    sweep(site=scene.name)
    assert {early, late}.isdisjoint(db.refs("VM"))
    assert mine in db.refs("VM")
    assert left(scene) == NOTHING | {"delegates": 1, "disks of VMs": 4}
