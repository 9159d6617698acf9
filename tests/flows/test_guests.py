"""Source *qhybrid*: the agent reads inside the guest, and the pool hears nothing of it."""

import json
import subprocess
import sys
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from pydantic import SecretStr

from blocks import DataStoreShare, Guest, XenPool
from catalog.values import Verdict
from flows.set_up import set_up_site
from lab.pool import Pool
from lab.serving import LabServer
from lab.settings import Settings
from likeness.model.ids import random_name
from likeness.model.job import BackupJob
from likeness.model.outcome import VmState
from likeness.xen.delegates import DEFAULT_TAG
from tasks.job_plan import plan_job
from tasks.pool_view import PlannedJob
from tasks.protection import find_unprotected
from tests.flows.scene import MIB, QUICK, Scene, image, noise, outcomes, sha256
from tests.smb.server import SmbServer

pytestmark = [pytest.mark.prefect, pytest.mark.smb, pytest.mark.lab]

DISKS = (noise("root", 9 * MIB) + bytes(2 * MIB), noise("data", 2 * MIB + 512))


@dataclass
class Inside:
    """A machine with an SSH server, whose disks are files."""

    scene: Scene
    home: Path
    block: Guest

    def back_up(self, **more: Any) -> Any:
        guests = [self.scene.name]
        return self.scene.back_up(guests=guests, **({"source": "qhybrid"} | more))

    def saved(self, **changed: Any) -> None:
        self.block.model_copy(update=changed).save(self.scene.name, overwrite=True)

    def disk(self, at: int) -> Path:
        return self.home / f"disk-{at}.raw"

    def now(self) -> list[str]:
        return [sha256(self.disk(at).read_bytes()) for at in range(len(DISKS))]


@pytest.fixture(scope="module")
def server() -> Generator[SmbServer, None, None]:
    made = SmbServer()
    made.start()
    yield made
    made.remove()


@pytest.fixture(scope="module")
def whole(
    server: SmbServer, prefect_server: None, tmp_path_factory: pytest.TempPathFactory
) -> Generator[Inside, None, None]:
    """A VM the pool knows too, a template for delegates, and what is inside the VM."""
    tmp_path = tmp_path_factory.mktemp("guests")
    pool = Pool(Settings(**QUICK, guest_tag=DEFAULT_TAG))
    pool.add_vm("web", [image(tmp_path, f"web-{at}", disk) for at, disk in enumerate(DISKS)])
    pool.add_vm("abd", [2 * MIB], power_state="Halted", tags=[DEFAULT_TAG])
    pool.db.put("VM", pool.db.where("VM", name_label="abd")[0], is_a_template=True)
    here, home = tmp_path / "here", tmp_path / "home"
    here.mkdir()
    home.mkdir()
    agent = tmp_path / "agent"
    agent.write_text('#!/bin/sh\nexec python3 -m likeness.agent "$@"\n')
    key = asyncssh.generate_private_key("ssh-ed25519")
    told = {
        "address": "127.0.0.1",
        "folder": str(home),
        "authorized_key": key.export_public_key().decode(),
        "blocked_ports": [],
        "kill_after_seconds": 0,
    }
    pipe = subprocess.PIPE
    with (
        LabServer(pool) as lab,
        subprocess.Popen(
            [sys.executable, "-m", "lab.guest_process"], stdin=pipe, stdout=pipe, text=True
        ) as machine,
    ):
        assert machine.stdin is not None
        assert machine.stdout is not None
        machine.stdin.write(json.dumps(told) + "\n")
        machine.stdin.flush()
        listening = json.loads(machine.stdout.readline())
        name = f"guest-{random_name()[:12]}"
        made = set_up_site(
            name,
            pool=XenPool(url=lab.url, username=lab.username, password=SecretStr(lab.password)),
            data_store=DataStoreShare(
                place=f"smb://127.0.0.1:{server.port}/ads/store",
                username=server.username,
                password=SecretStr(server.password),
                key_file=str(here / "store.key"),
                drop_box_username=server.username,
                drop_box_password=SecretStr(server.password),
            ),
            folder=here,
        )
        scene = Scene(name, made.site, lab, tmp_path, made.recovery_words)
        for at, disk in enumerate(DISKS):
            (home / f"disk-{at}.raw").write_bytes(disk)
        block = Guest(
            vm=pool.db.get("VM", pool.vm("web"), "uuid"),
            vm_name="web",
            address="127.0.0.1",
            port=listening["port"],
            host_key=listening["host_key"],
            private_key=SecretStr(key.export_private_key().decode()),
            agent_file=str(agent),
            folder=str(home),
            disks=[str(home / f"disk-{at}.raw") for at in range(len(DISKS))],
            before="echo quiet >$HOME/before",
            after="cat $HOME/before >$HOME/after",
        )
        block.save(name)
        yield Inside(scene, home, block)
        pool.guests.close()
        machine.stdin.close()


@pytest.fixture
def inside(whole: Inside) -> Inside:
    """One machine for all tests, whose block is what it was and whose disks are new."""
    whole.block.save(whole.scene.name, overwrite=True)
    for name in ("before", "after"):
        (whole.home / name).unlink(missing_ok=True)
    for at in range(len(DISKS)):
        content = noise(random_name(), 64 << 10)
        with whole.disk(at).open("r+b") as disk:
            disk.write(content)
        held = whole.disk(at).read_bytes()
        whole.scene.pool.write("web", disk=at, offset=0, data=held)  # as the pool has it, too
    return whole


def test_what_a_guest_has_is_shared_with_nobody_unless_it_is_trusted(inside: Inside) -> None:
    """The first test, while nobody has any of it."""
    scene = inside.scene
    assert scene.stored() == []
    (ours,) = outcomes(scene.back_up("web")).values()
    (apart,) = outcomes(inside.back_up()).values()
    (trusted,) = outcomes(inside.back_up(trust_guests=True)).values()

    assert ours.sent_bytes > 11 * MIB
    assert (apart.sent_bytes > 11 * MIB, apart.dropped_bytes) == (True, 0)
    assert trusted.dropped_bytes > 11 * MIB
    made = scene.listed("web")
    assert len({row.version for row in made}) == 3
    scene.validate()
    assert scene.verdicts() == [Verdict.GOOD] * 3
    assert {tuple(scene.restore(row.version)) for row in made} == {tuple(inside.now())}


def test_a_guest_sends_its_own_disks_and_the_pool_is_asked_nothing(inside: Inside) -> None:
    scene = inside.scene
    before, asked = inside.now(), scene.pool.journal.counts()
    first = inside.back_up()
    with inside.disk(0).open("r+b") as disk:
        disk.seek(5 * MIB)
        disk.write(noise("new", 256 << 10))
    after = inside.now()
    (second,) = outcomes(inside.back_up()).values()

    assert (first.name, first.message) == ("Completed", "1 VM backed up")
    assert scene.pool.journal.counts() == asked
    assert scene.validate().is_completed()
    assert scene.verdicts()[:2] == [Verdict.GOOD] * 2
    newest = scene.listed("web")[:2]
    assert [scene.restore(row.version) for row in newest] == [after, before]
    assert 0 < second.sent_bytes < MIB
    assert "script before the snapshot: exit code 0" in second.sentence
    assert "script after the snapshot: exit code 0" in second.sentence
    assert sorted(path.name for path in inside.home.iterdir()) == [
        "after",
        "before",
        "disk-0.raw",
        "disk-1.raw",
    ]
    (row, _) = newest
    assert (row.vm, row.consistency) == (inside.block.vm_id, "standard")


def test_a_guest_that_cannot_is_read_by_a_delegate_where_the_job_says_so(inside: Inside) -> None:
    inside.saved(host_key=asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode())

    (alone,) = outcomes(inside.back_up()).values()
    inside.saved(agent="installed")
    (without,) = outcomes(inside.back_up()).values()
    (other,) = outcomes(inside.back_up(source="qhybrid else enhanced")).values()

    assert alone.state is VmState.FAILED
    assert "VM web cannot be read from inside: the guest at 127.0.0.1" in alone.sentence
    assert without.state is VmState.FAILED
    assert "ended before it began (is likeness-agent installed there?)" in without.sentence
    assert other.state is VmState.DONE
    assert "read by a delegate instead" in other.sentence
    assert inside.scene.restore(other.version) == inside.now()
    job = inside.scene.job(source="qhybrid", guests=[inside.scene.name])
    planned = PlannedJob(job, starts_by_itself=True)
    assert find_unprotected.fn([planned], site=inside.scene.site) == ()


def test_a_script_that_fails_fails_its_vm_and_leaves_nothing_in_the_guest(inside: Inside) -> None:
    inside.saved(before="echo no room; exit 7")

    before = len(inside.scene.stored())
    (outcome,) = outcomes(inside.back_up()).values()

    assert outcome.state is VmState.FAILED
    assert "exit code 7" in outcome.sentence
    assert "(no room)" in outcome.sentence
    assert [path.name for path in inside.home.glob("likeness*")] == []
    assert len(inside.scene.stored()) == before


def test_a_job_from_inside_names_guests_and_no_vms() -> None:
    with pytest.raises(ValueError, match="asks the pool nothing"):
        BackupJob(name="n", source="qhybrid", vms=["web"])
    with pytest.raises(ValueError, match="name the disks in the Guest block"):
        BackupJob(name="n", source="qhybrid", guests=["web"], only_disks={"web": ["0"]})
    with pytest.raises(ValueError, match="a guest freezes itself"):
        BackupJob(name="n", source="qhybrid", guests=["web"], consistency="memory")
    with pytest.raises(ValueError, match="only the sources qhybrid have 'guests'"):
        BackupJob(name="n", guests=["web"])
    with pytest.raises(ValueError, match="vm"):
        Guest(vm="web", vm_name="w", address="a", host_key="k", private_key=SecretStr("p"))


def test_a_guest_that_is_no_block_is_told_and_stops_no_other(inside: Inside) -> None:
    ended = inside.scene.back_up(
        guests=["nobody", inside.scene.name], source="qhybrid", concurrency=2
    )
    found = outcomes(ended)
    job = inside.scene.job(source="qhybrid", guests=["nobody", inside.scene.name])
    plan = plan_job.fn(job, site=inside.scene.site)
    assert [vm.name for vm in plan.vms] == ["web"]
    assert [name for name, _ in plan.refused] == ["nobody"]
    assert found["web"].state is VmState.DONE
    assert "there is no Guest block 'nobody'" in found["nobody"].sentence
