"""What a delegate is told opens nothing that is stored, and its account can only add to the inbox.

With the account's real rights on a real share, so that a whole job is seen to go through with them.
"""

import base64
import os
from collections.abc import Generator
from pathlib import Path
from uuid import UUID

import pytest
from pydantic import SecretStr

from likeness.agent.protocol import Header
from likeness.agent.remote import Address
from likeness.codec.hashing import derived_key
from likeness.errors import NameTaken, ShareRefused
from likeness.model.ids import RunId, random_name
from likeness.store.format.documents import encode
from likeness.xen.delegates import XenDelegate
from tasks.delegates import ReadyDelegate, bundle_of, header_of
from tests.flows.background import InTheBackground
from tests.flows.delegate_scene import delegate_scene
from tests.flows.scene import MIB, Scene, noise
from tests.flows.waiting import wait_until
from tests.smb.drop_box import ACL_LINES, make_drop_box
from tests.smb.server import SmbServer, children_of, require_module

pytestmark = [pytest.mark.prefect, pytest.mark.smb, pytest.mark.lab]
SOURCE, CONTROLLER = "daemon", "bin"  # accounts that every Linux system has


@pytest.fixture
def scene(tmp_path: Path) -> Generator[Scene, None, None]:
    if os.getuid() != 0:
        pytest.skip("not root: Samba keeps NT access control lists in attributes only root can set")
    require_module("acl_xattr")
    server = SmbServer(share_extra=ACL_LINES)
    try:
        server.folder().chmod(0o777)
        server.folder().parent.chmod(0o755)
        for name in (SOURCE, CONTROLLER):
            server.set_password(f"password-of-{name}", username=name)
        server.start()
        make_drop_box(server, source=SOURCE, controller=CONTROLLER)
        store = {
            "place": f"smb://127.0.0.1:{server.port}/ads",
            "username": CONTROLLER,
            "password": SecretStr(f"password-of-{CONTROLLER}"),
            "drop_box_username": SOURCE,
            "drop_box_password": SecretStr(f"password-of-{SOURCE}"),
        }
        vms = {"web": [noise("web", 3 * MIB)]}
        with delegate_scene(tmp_path, server, vms, store=store) as made:
            yield made
    finally:
        server.remove()


def secrets_of(scene: Scene) -> dict[str, bytes]:
    """All that opens, signs or logs in."""
    with scene.store() as store:
        master = store.keys.master
        number = store.keys.epoch.to_bytes(4, "little")
    made = {kind: derived_key(master, kind, number) for kind in ("meta", "box", "sign")}
    block = scene.site.data_store
    return made | {
        "master key": master,
        "pool's password": scene.lab.password.encode(),
        "controller's password": block.password.get_secret_value().encode(),
        "recovery words": " ".join(scene.recovery_words.split()[:4]).encode(),
    }


def told_besides(scene: Scene) -> dict[str, bytes]:
    """What a delegate is told for the time of its transfer, and keeps nowhere."""
    with scene.store() as store:
        chunk_id_key = store.keys.chunk_id_key
    password = scene.site.data_store.drop_box_password.get_secret_value()
    return {"chunk id key": chunk_id_key, "drop box's password": password.encode()}


def found_in(place: bytes, secret: bytes) -> bool:
    forms = (secret, secret.hex().encode(), base64.b64encode(secret).rstrip(b"="))
    return any(form in place for form in forms)


def family(pid: int) -> list[int]:
    return [pid, *(each for child in children_of(pid) for each in family(child))]


def everywhere_in(scene: Scene) -> dict[str, bytes]:
    """The disk of the one delegate, what is seen of its processes, and its xenstore."""
    ((ref, guest),) = scene.pool.guests.running.items()
    assert guest.process
    places = {"xenstore": repr(scene.pool.guest_store[ref]).encode()}
    places["record"] = repr(scene.pool.db.record("VM", ref)).encode()
    for pid in family(guest.process.pid):
        for what in ("cmdline", "environ"):
            places[f"{what} of {pid}"] = Path(f"/proc/{pid}/{what}").read_bytes()
    for path in guest.folder.rglob("*"):
        if path.is_file():
            places[path.name] = path.read_bytes()
    return places


def test_nothing_that_a_delegate_is_told_opens_anything_and_its_account_adds_alone(
    scene: Scene,
) -> None:
    job = InTheBackground(scene, "web", source="enhanced", bandwidth_mib=1)
    wait_until(lambda: scene.pool.journal.entries("Async.VBD.plug"), "plugged", seconds=30)

    def agent_runs() -> bool:
        return any(b"likeness.agent" in place for place in everywhere_in(scene).values())

    wait_until(agent_runs, "the agent runs")
    places = everywhere_in(scene)
    ended = job.ended()

    assert ended.name == "Completed"
    assert any(found_in(place, b"likeness.agent") for place in places.values())
    hidden = secrets_of(scene)
    order = ordered(scene)
    assert order.check == scene.job("web").check_before_sending == "sampled"
    header = encode(order)
    assert {name for name, key in told_besides(scene).items() if found_in(header, key)}
    assert [name for name, secret in hidden.items() if found_in(header, secret)] == []
    seen = {
        (where, name)
        for where, place in places.items()
        for name, secret in (hidden | told_besides(scene)).items()
        if found_in(place, secret)
    }
    assert seen == set()
    reads_and_changes_nothing(scene)
    assert scene.validate().is_completed()
    assert scene.restore(scene.newest("web").version) == scene.disks("web")


def ordered(scene: Scene) -> Header:
    """The order as a delegate gets it."""
    machine = XenDelegate("OpaqueRef:x", "ABD for web", "127.0.0.1", 22, "ssh-ed25519 AAAA", "/dev")
    address = Address("127.0.0.1", 22, "ssh-ed25519 AAAA", "PRIVATE KEY")
    ready = ReadyDelegate(machine, address, scene.job("web", source="enhanced"), scene.site)
    with scene.store() as store:
        return header_of(RunId(random_name()), bundle_of(store, ready.job), (), ready)


def reads_and_changes_nothing(scene: Scene) -> None:
    """Every stored object, by whoever knows the delegates' account and its name."""
    with scene.store() as store:
        names = [entry.name for entry in store.transport.entries("")]
    ours = scene.site.data_store.model_copy(
        update={"username": SOURCE, "password": scene.site.data_store.drop_box_password}
    )
    stranger = ours.connect()
    try:
        assert len(names) > 5
        for name in names:
            for attempt in (
                lambda name=name: stranger.read(name),
                lambda name=name: stranger.delete(name),
                lambda name=name: stranger.rename(name, f"in/{UUID(int=1).hex}/x"),
                lambda name=name: stranger.create(name, [b"another"]),
                lambda: list(stranger.entries("")),
            ):
                with pytest.raises((ShareRefused, NameTaken)):
                    attempt()
    finally:
        stranger.close()
