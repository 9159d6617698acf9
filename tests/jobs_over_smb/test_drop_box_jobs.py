"""A source that may create and do nothing else backs up to a share; the controller takes it in."""

import os
import re
import secrets
import tempfile
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

import pytest

from likeness.errors import (
    Damaged,
    DocumentForged,
    LikenessError,
    NameTaken,
    ShareRefused,
    TransferBroken,
)
from likeness.model.ids import PackId, RunId, VmId, random_name
from likeness.stopping import StopToken
from likeness.store import layout
from likeness.store.arrivals import discard_manifest, open_inbox
from likeness.store.auditing import audit_presence
from likeness.store.heads import write_head
from likeness.store.observations import Weight
from likeness.store.proving import Finding
from likeness.store.receipts import PackLog
from likeness.store.sweeping import sweep_inboxes
from likeness.store.versions import Version, record_names
from likeness.transport.smb import SmbTransport
from tests.audit.test_manifests import Job as Delivery
from tests.jobs_over_smb.walk import patiently
from tests.smb.drop_box import ACL_LINES, make_drop_box
from tests.smb.server import SmbServer, require_module
from tests.unit.workshop import CHUNK, NO_PAUSES, Workshop, changed, noise

pytestmark = pytest.mark.smb

SOURCE, CONTROLLER = "daemon", "bin"  # accounts that every Linux system has
DISK = noise("disk", 14 * CHUNK)
LATER = changed(DISK, (2 * CHUNK, noise("later", 3 * CHUNK)), (9 * CHUNK, bytes(CHUNK)))


@dataclass
class DropBox:
    """A store at the top of a share, its controller, and the account that a source is given."""

    server: SmbServer
    workshop: Workshop
    source: SmbTransport

    def deliver(self, disk: bytes, *, vm: VmId | None = None, told: bool = True) -> Delivery:
        """The controller opens an inbox; the source fills it and says what it left."""
        run = RunId(random_name())
        patiently(lambda: open_inbox(self.workshop.store, run))
        receipt = self.workshop.transfer(
            disk, run=run, vm=vm or VmId(random_name()), inbox=self.source, pauses=NO_PAUSES
        )
        delivery = Delivery(self.workshop, receipt, secrets.token_bytes(32))
        if told:
            delivery.leave(inbox=self.source)
        return delivery

    def take_in(self, delivery: Delivery) -> Version:
        """What the controller does with a delivery."""
        version = patiently(lambda: self.workshop.commit(delivery.receipt_of(delivery.read())))
        discard_manifest(self.workshop.store, delivery.run)
        return version

    def path(self, name: str) -> Path:
        return self.server.folder() / name

    def sweep(self) -> int:
        return sweep_inboxes(self.workshop.store, lambda _: False).objects

    def troubles(self) -> list[str]:
        seen = audit_presence(self.workshop.store, stop=StopToken())
        return [f"{each.name}: {each.cause}" for each in seen if each.weight is not Weight.NOTICE]


@pytest.fixture(scope="module")
def box() -> Generator[DropBox, None, None]:
    if os.getuid() != 0:
        pytest.skip("not root: Samba keeps NT access control lists in attributes only root can set")
    require_module("acl_xattr")
    server = SmbServer(share_extra=ACL_LINES)
    with tempfile.TemporaryDirectory() as folder:
        try:
            server.folder().chmod(0o777)
            server.set_password("of-the-source", username=SOURCE)
            server.set_password("of-the-controller", username=CONTROLLER)
            server.start()
            make_drop_box(server, source=SOURCE, controller=CONTROLLER)
            controller = server.transport(username=CONTROLLER, password="of-the-controller")
            source = server.transport(username=SOURCE, password="of-the-source")
            yield DropBox(server, Workshop(Path(folder), transport=controller), source)
            controller.close()
            source.close()
        finally:
            server.remove()


def refused(call: Callable[[], object]) -> None:
    with pytest.raises(ShareRefused, match=f"the account {SOURCE!r} may not do this"):
        call()


def test_what_a_source_left_becomes_a_version_that_restores(box: DropBox) -> None:
    vm = VmId(random_name())
    versions = []
    for disk in (DISK, LATER):
        delivery = box.deliver(disk, vm=vm)
        assert delivery.read().passed_over == ()
        versions.append((box.take_in(delivery), disk))

    assert [version.sequence for version, _ in versions] == [1, 2]
    assert versions[1][0].record.counts.unchanged_bytes > 0
    for version, disk in versions:
        assert box.workshop.restore_in_memory(version) == disk
        assert box.workshop.is_proved(version, box.workshop.packs_of(version))
    assert not [name for name in box.workshop.names(layout.INBOX) if name.endswith(".mf")]
    box.sweep()
    assert box.workshop.transport.folders(layout.INBOX) == []
    write_head(box.workshop.store, clock=box.workshop.clock)
    assert box.troubles() == []


def test_a_source_can_do_nothing_with_what_it_left(box: DropBox) -> None:
    delivery = box.deliver(DISK)
    left = [*(layout.arriving_pack(delivery.run, pack.pack) for pack in delivery.receipt.packs)]
    before = {name: box.workshop.transport.read(name) for name in (*left, *delivery.parts())}
    assert len(left) > 2
    assert len(delivery.parts()) > 1

    for name in before:
        refused(lambda name=name: box.source.read(name))  # type: ignore[misc]
        refused(lambda name=name: box.source.delete(name))  # type: ignore[misc]
        refused(
            lambda name=name: box.source.rename(name, name[:-2] + "zz")  # type: ignore[misc]
        )
        with pytest.raises(NameTaken):
            box.source.create(name, [b"something else"])
    refused(lambda: list(box.source.entries(layout.inbox(delivery.run))))
    refused(lambda: box.source.folders(layout.INBOX))

    assert {name: box.workshop.transport.read(name) for name in before} == before
    version = box.take_in(delivery)
    assert box.workshop.restore_in_memory(version) == DISK


def test_a_source_can_do_nothing_to_a_version(box: DropBox) -> None:
    version = box.take_in(box.deliver(DISK))
    names = [name for name in box.workshop.names("") if not name.startswith(f"{layout.INBOX}/")]
    assert version.name in names
    assert any(name.startswith("packs/") for name in names)

    for name in names:
        refused(lambda name=name: box.source.read(name))  # type: ignore[misc]
        refused(lambda name=name: box.source.delete(name))  # type: ignore[misc]
        refused(
            lambda name=name: box.source.create(  # type: ignore[misc]
                name[: name.rfind("/") + 1] + random_name(), [b"x"]
            )
        )

    assert sorted(names) == sorted(
        name for name in box.workshop.names("") if not name.startswith(f"{layout.INBOX}/")
    )
    assert box.workshop.restore_in_memory(version) == DISK


# --- what the controller refuses -----------------------------------------------------------------


def first_pack(box: DropBox, delivery: Delivery) -> Path:
    return box.path(layout.arriving_pack(delivery.run, next(iter(delivery.receipt.packs)).pack))


def forged(box: DropBox, delivery: Delivery) -> None:
    """Somebody who has the source's password, but not the token of the job."""
    delivery.leave(seal=delivery.seal(token=secrets.token_bytes(32)), inbox=box.source)


def for_another_vm(box: DropBox, delivery: Delivery) -> None:
    delivery.leave(seal=delivery.seal(vm=VmId(random_name())), inbox=box.source)


def without_a_pack(box: DropBox, delivery: Delivery) -> None:
    delivery.leave(inbox=box.source)
    first_pack(box, delivery).unlink()


def with_a_longer_pack(box: DropBox, delivery: Delivery) -> None:
    delivery.leave(inbox=box.source)
    with first_pack(box, delivery).open("ab") as file:
        file.write(b"more")


def with_a_shorter_pack(box: DropBox, delivery: Delivery) -> None:
    delivery.leave(inbox=box.source)
    os.truncate(first_pack(box, delivery), 1000)


def that_leaves_a_pack_out(box: DropBox, delivery: Delivery) -> None:
    """A map that needs a pack of which the manifest says nothing."""
    fewer = PackLog(delivery.workshop.folder / f"{random_name()}.packs")
    first, *others = delivery.receipt.packs
    for pack in others:
        fewer.append(pack)
    delivery.leave(packs=fewer, inbox=box.source)
    assert first.places


def never_finished(box: DropBox, delivery: Delivery) -> None:
    delivery.leave(inbox=box.source)
    last = max(delivery.parts(), key=lambda name: box.path(name).stat().st_mtime_ns)
    box.path(last).unlink()


REFUSALS: list[tuple[Callable[[DropBox, Delivery], None], type[LikenessError], str]] = [
    (forged, DocumentForged, r"\.mf is damaged: it was not made by this job"),
    (for_another_vm, DocumentForged, r"\.mf is damaged: it was not made by this job"),
    (without_a_pack, Damaged, r"tells of pack [0-9a-f]{32} with \d+ bytes, which is missing"),
    (with_a_longer_pack, Damaged, r"with \d+ bytes, which is there with \d+ bytes"),
    (with_a_shorter_pack, Damaged, r"with \d+ bytes, which is there with 1000 bytes"),
    (that_leaves_a_pack_out, Damaged, r"a map names chunk \w+, which is neither in the VM's"),
    (never_finished, TransferBroken, r"left no whole manifest .* run the job again"),
]


@pytest.mark.parametrize(
    ("spoil", "error", "says"), REFUSALS, ids=[spoil.__name__ for spoil, _, _ in REFUSALS]
)
def test_a_delivery_that_does_not_fit_is_refused(
    box: DropBox,
    spoil: Callable[[DropBox, Delivery], None],
    error: type[LikenessError],
    says: str,
) -> None:
    vm = VmId(random_name())
    good = box.take_in(box.deliver(DISK, vm=vm))
    before = {folder: box.workshop.names(folder) for folder in ("packs", "maps", "index")}
    delivery = box.deliver(LATER, vm=vm, told=False)
    spoil(box, delivery)

    with pytest.raises(error) as told:
        box.take_in(delivery)

    assert re.search(says, str(told.value)), str(told.value)
    assert len(str(told.value).split()) > 6
    assert record_names(box.workshop.store, vm) == [good.name]
    assert {folder: box.workshop.names(folder) for folder in before} == before
    assert box.sweep() > 2
    assert box.workshop.transport.folders(layout.INBOX) == []
    again = box.take_in(box.deliver(LATER, vm=vm))
    assert box.workshop.restore_in_memory(again) == LATER
    assert box.workshop.restore_in_memory(good) == DISK


def test_a_forged_manifest_beside_the_real_one_changes_nothing(box: DropBox) -> None:
    delivery = box.deliver(DISK)
    forged(box, delivery)

    version = box.take_in(delivery)

    assert box.workshop.restore_in_memory(version) == DISK


def test_a_pack_altered_after_the_manifest_never_counts_as_proved(box: DropBox) -> None:
    """A commit reads no pack; what the source said of its bytes is a claim until the proof."""
    delivery = box.deliver(noise("nowhere else", 14 * CHUNK))
    altered = first_pack(box, delivery)
    data = bytearray(altered.read_bytes())
    data[len(data) // 2] ^= 1
    altered.write_bytes(data)
    version = box.take_in(delivery)

    proofs = {proof.pack: proof for proof in box.workshop.prove(box.workshop.packs_of(version))}

    assert proofs.pop(PackId(altered.name)).finding is Finding.DAMAGED
    assert {proof.finding for proof in proofs.values()} == {Finding.PROVED}
    with pytest.raises(Damaged):
        box.workshop.restore_in_memory(version)


def test_a_strangers_pack_is_not_admitted_and_gets_swept(box: DropBox) -> None:
    delivery = box.deliver(DISK)
    strange = PackId(random_name())
    genuine = next(iter(delivery.receipt.packs)).pack
    copy = box.workshop.transport.read(layout.arriving_pack(delivery.run, genuine))
    box.source.create(layout.arriving_pack(delivery.run, strange), [copy])

    version = box.take_in(delivery)

    assert layout.pack(strange) not in box.workshop.pack_names()
    assert layout.arriving_pack(delivery.run, strange) in box.workshop.names(layout.INBOX)
    assert box.sweep() >= 1
    assert box.workshop.transport.folders(layout.INBOX) == []
    assert box.workshop.restore_in_memory(version) == DISK
