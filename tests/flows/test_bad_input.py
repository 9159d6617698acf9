"""Bad input gets a sentence and changes nothing; trouble with one VM is that VM's alone."""

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prefect.client.schemas.objects import State
from pydantic import SecretStr

from catalog.messages import message_id, written
from flows.backup import backup_job
from flows.restore import restore_disks
from lab.database import Database, Derivation, Record
from lab.wire.values import Value
from likeness.codec.documents import Kind, write_document
from likeness.store.format import layout
from likeness.store.format.documents import encode
from likeness.store.read.versions import last_version, vms
from tests.conftest import IN_CI
from tests.flows.background import InTheBackground
from tests.flows.scene import MIB, NOTHING_LEFT, Scene, noise, open_scene, outcomes
from tests.flows.test_after_commit import run_of
from tests.flows.waiting import wait_until

pytestmark = [pytest.mark.prefect, pytest.mark.lab]
WRONG = "wrong-horse-battery"


@contextmanager
def nothing_changes(site: Scene) -> Generator[None, None, None]:
    """The store, the pool and the list of versions are afterwards what they were before."""
    before = site.objects(), site.left_in_the_pool(), site.listed()
    yield
    assert (site.objects(), site.left_in_the_pool(), site.listed()) == before


@pytest.fixture(scope="module")
def still(
    tmp_path_factory: pytest.TempPathFactory, prefect_server: None
) -> Generator[Scene, None, None]:
    """A site for jobs that must not change it."""
    with open_scene(tmp_path_factory.mktemp("still")) as site:
        yield site


@pytest.fixture(scope="module")
def lively(
    tmp_path_factory: pytest.TempPathFactory, prefect_server: None
) -> Generator[Scene, None, None]:
    """A site for jobs that do what they can."""
    with open_scene(tmp_path_factory.mktemp("lively") / "site") as site:
        yield site


def made_by(ended: State[Any], site: Scene) -> list[str]:
    """The VMs that a job made a version of."""
    return [row.vm_name for row in site.listed() if row.run == run_of(ended)]


def refused(ended: State[Any]) -> str:
    assert ended.is_failed()
    assert ended.name == "Failed"
    assert ended.message
    assert "encountered an exception" not in ended.message
    return ended.message


# -- some VMs ------------------------------------------------------------------------------------


def test_a_vm_that_fails_stops_no_other_and_the_job_says_which_and_why(lively: Scene) -> None:
    site = lively
    vm = str(site.pool.db.get("VM", site.pool.vm("web"), "uuid"))
    site.pool.faults.fail("disk.snapshot", "SR_BACKEND_FAILURE_44", "", "no space left", "", at=2)

    ended = site.back_up("web", "db", "wbe")

    assert (ended.name, ended.is_failed()) == ("CompletedWithErrors", True)
    found = outcomes(ended)
    assert found["db"].version
    assert not found["web"].version
    assert vm.replace("-", "") == found["web"].vm
    assert ended.message
    assert "2 of 3 VMs failed" in ended.message
    assert "web: " in ended.message
    assert "no space left" in ended.message or "full" in ended.message
    assert "wbe: " in ended.message
    assert "'web'" in found["wbe"].sentence or "web" in found["wbe"].sentence
    assert made_by(ended, site) == ["db"]
    assert site.left_in_the_pool() == NOTHING_LEFT
    assert site.restore(site.newest("db").version) == site.disks("db")


def test_a_job_whose_vms_all_fail_has_failed(still: Scene) -> None:
    with nothing_changes_but_copies(still):
        message = refused(still.back_up("nobody", "noone"))

    assert "2 of 2 VMs failed" in message
    assert "nobody" in message
    assert "noone" in message


@contextmanager
def nothing_changes_but_copies(site: Scene) -> Generator[None, None, None]:
    """A run that got as far as its VMs leaves a copy of the catalog, with its own journal.

    The first that writes into a store notes beside the owner that it is this installation's turn.
    """

    def kept() -> dict[str, int]:
        passing = ("catalog/", "heads/", "owner/0000000000000001-")
        return {name: size for name, size in site.objects().items() if not name.startswith(passing)}

    before = kept(), site.left_in_the_pool(), site.listed()
    yield
    assert (kept(), site.left_in_the_pool(), site.listed()) == before


def test_a_job_that_names_nothing_is_refused(still: Scene) -> None:
    with nothing_changes(still):
        assert "names no VM, tag, host or pool" in refused(still.back_up())
        assert "means no VM at this moment" in refused(still.back_up(tags=["nobody has this"]))


def larger_until_read(name: str) -> Derivation:
    """A disk's size as the pool tells it: for one disk, more than there is once it is read."""

    def size(db: Database, _ref: str, told: Record) -> Value:
        reading = f"Likeness: reading disk 0 ({name})"
        labels = (str(db.get("task", task, "name_label")) for task in db.refs("task"))
        is_read = any(label.startswith(reading) for label in labels)
        shrinks = told["name_label"] == name and not is_read
        return int(told["virtual_size"]) + (MIB if shrinks else 0)

    return size


def test_a_job_that_cannot_be_run_as_it_is_written_is_told_all_the_same(still: Scene) -> None:
    still.back_up("db")
    misspelt: Any = {"name": "nightly", "vms": ["db"], "concurency": 2}
    ended = backup_job(misspelt, site=still.name, return_state=True)

    assert "concurency" in str(ended.message)
    run = ended.state_details.flow_run_id
    assert run is not None
    (told,) = written(still.site.catalog.file, [message_id("job", run.hex)])
    assert told


def test_a_disk_that_shrank_fails_its_vm_with_a_sentence(lively: Scene) -> None:
    site = lively
    site.pool.db.derive("VDI", "virtual_size", larger_until_read("db 0"))

    ended = site.back_up("web", "db")
    site.pool.db.derive("VDI", "virtual_size", larger_until_read("none"))

    assert ended.name == "CompletedWithErrors"
    assert "smaller than it was" in outcomes(ended)["db"].sentence
    assert made_by(ended, site) == ["web"]
    assert site.left_in_the_pool() == NOTHING_LEFT


def test_a_transfer_that_breaks_is_taken_up_again_from_the_same_snapshot(lively: Scene) -> None:
    site, before = lively, lively.pool.journal.counts().get("Async.VM.snapshot", 0)
    site.pool.write("db", disk=0, offset=0, data=noise("to be read", 2 * MIB))
    site.pool.faults.fail_export("short", after_bytes=MIB, times=2)

    ended = site.back_up("db")

    assert ended.name == "Completed"
    assert site.restore(site.newest("db").version) == site.disks("db")
    assert site.pool.faults.listing()["exports"] == []
    assert site.pool.journal.counts()["Async.VM.snapshot"] == before + 1


# -- parameters ----------------------------------------------------------------------------------


def test_numbers_that_cannot_be_are_refused_in_a_sentence(still: Scene) -> None:
    job: Any = {"name": "nightly", "vms": ["db"], "concurrency": -3}
    with nothing_changes(still):
        told = backup_job(job, site=still.name, return_state=True).message
        gib = still.validate(most_gib=-1).message

    assert "'concurrency' cannot be -3: give a whole number from 1 to 64" in str(told)
    assert "it cannot be -1: give a whole number" in str(gib)


@pytest.mark.parametrize("folder", ["/" + "x" * 300, "/x" * 4000, "/a\0b"])
def test_a_folder_that_cannot_be_is_refused_in_a_sentence(still: Scene, folder: str) -> None:
    with nothing_changes(still):
        ended = restore_disks("0123abcd", folder, site=still.name, return_state=True)

    assert "nothing can be restored to" in refused(ended)
    assert len(refused(ended)) < 300


def test_an_id_of_digits_alone_is_an_id(still: Scene) -> None:
    given: Any = 12345678

    ended = restore_disks(given, str(still.folder / "back"), site=still.name, return_state=True)

    assert "no version begins with '12345678'" in refused(ended)


# -- the pool ------------------------------------------------------------------------------------


def test_a_wrong_password_is_said_without_showing_it_and_tried_once(still: Scene) -> None:
    pool = still.site.xen_pool
    right = pool.password
    logins = still.pool.counters()["calls"].get("session.login_with_password", 0)
    with nothing_changes(still):
        still.save(xen_pool={"password": SecretStr(WRONG)})
        message = refused(still.back_up("web"))
        still.save(xen_pool={"password": right})

    assert pool.url in message
    assert "root" in message
    assert WRONG not in message
    assert still.pool.counters()["calls"]["session.login_with_password"] == logins + 1


def test_a_pool_that_does_not_answer_is_named(still: Scene) -> None:
    right = still.site.xen_pool.url
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with nothing_changes(still):
        still.save(xen_pool={"url": f"http://127.0.0.1:{port}", "patience_seconds": 1})
        message = refused(still.back_up("web"))
        still.save(xen_pool={"url": right, "patience_seconds": 30})

    assert f"127.0.0.1:{port}" in message


# -- the site and the store ----------------------------------------------------------------------


def test_a_site_that_nobody_saved_is_named(still: Scene) -> None:
    with nothing_changes(still):
        ended = backup_job(still.job("web"), site="elsewhere", return_state=True)

    assert "there is no Site block 'elsewhere'" in refused(ended)
    assert "likeness set-up" in refused(ended)


def test_a_place_without_a_store_is_named_and_stays_empty(still: Scene) -> None:
    empty = still.folder / "empty"
    empty.mkdir()
    right = still.site.data_store.place
    with nothing_changes(still):
        still.save(data_store={"place": str(empty)})
        message = refused(still.back_up("web"))
        still.save(data_store={"place": str(still.folder / "nowhere")})
        elsewhere = refused(still.back_up("web"))
        still.save(data_store={"place": right})

    assert "no data store" in message
    assert "nowhere" in elsewhere
    assert list(empty.iterdir()) == []
    assert not (still.folder / "nowhere").exists()


def test_a_key_of_another_store_is_refused(still: Scene, new_site: Callable[..., Scene]) -> None:
    other, right = new_site({}), still.site.data_store.key_file
    with nothing_changes(still):
        still.save(data_store={"key_file": other.site.data_store.key_file})
        message = refused(still.back_up("web"))
        still.save(data_store={"key_file": right})

    assert "key" in message
    assert other.recovery_words not in message


def test_a_store_made_by_a_later_release_asks_for_that_release(still: Scene) -> None:
    copies = {name: (still.place / name).read_bytes() for name in layout.FORMAT_COPIES}
    with still.store() as store:
        facts = msgspec.structs.replace(store.facts, format=2, oldest_reader=2)
        for name in copies:
            store.transport.delete(name)
        name = layout.FORMAT_COPIES[0]
        data = write_document(Kind.FORMAT, name, encode(facts), keys=store.keys, suite=store.suite)
        store.transport.create(name, [data])

    with nothing_changes(still):
        assert "install a later release" in refused(still.back_up("web"))
    (still.place / name).unlink()
    for name, data in copies.items():
        (still.place / name).write_bytes(data)


@pytest.fixture
def small_disk(tmp_path: Path) -> Generator[Callable[[Path], None], None, None]:
    """Put a file system of 4 MiB in the place of a folder."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        assert not IN_CI, "a full disk can only be tried as root"
        pytest.skip("NOT TRIED: a full disk needs root for a small tmpfs")
    mounted: list[Path] = []

    def put(folder: Path) -> None:
        content = [(path, path.read_bytes()) for path in folder.rglob("*") if path.is_file()]
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=4m", "likeness-test", str(folder)], check=True
        )
        mounted.append(folder)
        for path, data in content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    yield put
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_store_fails_the_vm_says_so_and_keeps_what_it_has(
    new_site: Callable[..., Scene], small_disk: Callable[[Path], None]
) -> None:
    site = new_site({"small": [noise("small", MIB)], "large": [noise("large", 16 * MIB)]})
    small_disk(site.place)

    ended = site.back_up("small", "large")

    assert ended.name == "CompletedWithErrors"
    assert "no room left" in outcomes(ended)["large"].sentence
    assert outcomes(ended)["small"].version
    assert site.restore(site.newest("small").version) == site.disks("small")
    assert [row.vm_name for row in site.listed()] == ["small"]
    assert site.left_in_the_pool() == NOTHING_LEFT


def test_a_full_disk_of_this_machine_is_not_taken_for_a_full_store(
    lively: Scene, small_disk: Callable[[Path], None]
) -> None:
    site = lively
    scratch = site.site.catalog.scratch
    fill(scratch, small_disk)

    ended = site.back_up("web")

    assert outcomes(ended)["web"].sentence == (
        f"no room left on this machine for what a run keeps meanwhile, in {scratch}"
        " or beside the catalog; make room there, then run again"
    )
    assert site.left_in_the_pool() == NOTHING_LEFT


def test_a_full_disk_under_the_catalog_costs_no_version_and_is_said(
    new_site: Callable[..., Scene], small_disk: Callable[[Path], None]
) -> None:
    site = new_site({"web": [noise("many blocks", 12 * MIB)]})  # of few it is told in memory
    fill(site.site.catalog.file.scratch, small_disk)

    ended = site.back_up("web")

    assert ended.name == "CompletedWithWarnings"
    assert "no room left on this machine beside the catalog" in str(ended.message)
    with site.store() as store:
        found = [last_version(store, vm) for vm in vms(store)]
    assert outcomes(ended)["web"].version in [each.version for each in found if each]
    assert site.left_in_the_pool() == NOTHING_LEFT


def fill(folder: Path, small_disk: Callable[[Path], None]) -> None:
    """Give a folder a disk of its own that has no room."""
    folder.mkdir(exist_ok=True)
    small_disk(folder)
    (folder / "somebody's").write_bytes(bytes(4 * MIB))


# -- two at once ---------------------------------------------------------------------------------


def test_a_second_run_of_the_same_job_is_refused_and_changes_nothing(lively: Scene) -> None:
    site = lively
    site.pool.faults.hang("VM.snapshot")
    first = InTheBackground(site, "web")
    wait_until(lambda: site.pool.db.where("task", status="pending"), "the first run is at work")

    with nothing_changes(site):
        message = refused(site.back_up("web", "db"))
    site.pool.faults.clear()

    assert "another run of job 'nightly' is under way" in message
    assert first.ended().name == "Completed"
    assert made_by(first.ended(), site) == ["web"]


def test_two_jobs_leave_a_vm_to_the_one_that_has_it(lively: Scene) -> None:
    site, before = lively, len(lively.listed("web"))
    site.pool.faults.hang("VM.snapshot")
    first = InTheBackground(site, "web")
    wait_until(lambda: site.pool.db.where("task", status="pending"), "the first job is at work")

    second = site.back_up("web", "db", name="another")
    site.pool.faults.clear()

    assert second.name == "CompletedWithErrors"
    assert "being backed up by another job" in outcomes(second)["web"].sentence
    assert outcomes(second)["db"].version
    assert first.ended().name == "Completed"
    assert len(site.listed("web")) == before + 1
