"""The image of delegates, booted: it sends a disk to a real smbd, and a guest with LVM its own."""

import os
import subprocess
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from likeness.agent.protocol import GuestOrder
from likeness.agent.remote import run_over_ssh
from likeness.errors import TransferBroken
from likeness.transport.local import LocalTransport
from tests.agent.machine import HOST, booted
from tests.agent.orders import Attempt, Ordered
from tests.flows.waiting import wait_until
from tests.smb.server import SmbServer
from tests.unit.workshop import MIB, Workshop, noise, sha256_of

pytestmark = [
    pytest.mark.torture,
    pytest.mark.smb,
    pytest.mark.needs("qemu-system-x86_64", "debootstrap", "syslinux", "mcopy", "ssh"),
]
ROOT = Path(__file__).parents[2]
FIRST, SECOND = "first", "second"
WRITER = f"""
turn=0
while [ ! -e /root/stop ]; do
  turn=$((turn + 1))
  for file in {FIRST} {SECOND}; do
    printf '%08d' $turn | dd of=/db/$file conv=notrunc,fsync status=none
  done
done
"""
"""Of one moment the first file is at most one turn ahead of the second."""
MARK = "mark-of-snapshots"
PROCESSES = "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"
VOLUME_AT = MIB
"""Where LVM puts the first extent of a disk that is a physical volume as a whole."""


def built(folder: Path, extra: str = "") -> Path:
    """The image; one that was built before is taken if the environment names its folder."""
    ready = Path(os.environ.get("LIKENESS_ABD", folder)) / f"likeness-abd{'-lvm' * bool(extra)}.raw"
    if not ready.exists():
        if os.geteuid() != 0:
            pytest.skip("only root can make the image")
        made = ready.parent / f"made{extra}"
        subprocess.run([ROOT / "abd/build", made], check=True, env=os.environ | {"EXTRA": extra})
        (made / "likeness-abd.raw").rename(ready)
    assert ready.stat().st_size <= 1 << 30
    return ready


@pytest.fixture
def server() -> Generator[SmbServer, None, None]:
    made = SmbServer()
    made.start()
    yield made
    made.remove()


@pytest.fixture
def shop(server: SmbServer, tmp_path: Path) -> Workshop:
    """A store in the share's folder: the controller has it there, the machine by SMB."""
    store = server.home / "shares" / "ads" / "store"
    store.mkdir()
    return Workshop(tmp_path, transport=LocalTransport(store), chunk_bytes=256 << 10)


def over_smb(server: SmbServer) -> dict[str, object]:
    return {
        "place": f"smb://{HOST}:{server.port}/ads/store",
        "username": server.username,
        "password": server.password,
        "trial": "in/trial",
        "silence_seconds": 60,
    }


def test_the_image_boots_and_sends_a_disk_that_validates_and_restores(
    server: SmbServer, shop: Workshop, tmp_path: Path
) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(noise("disk", 24 * MIB) + bytes(8 * MIB) + noise("end", MIB + 512))
    with booted(built(tmp_path), tmp_path, [disk]) as machine:
        assert machine.told == "10.0.2.15"
        attempt = Ordered.of(shop, disk).attempt(
            paths={str(disk): f"{machine.devices}/vdb"},
            **over_smb(server),  # type: ignore[arg-type]
        )
        done = run_over_ssh(machine.address, attempt.order)
        assert server.password not in machine.run(PROCESSES)
    version = shop.commit(attempt.receipt(done))

    assert shop.is_proved(version, shop.packs_of(version))
    assert sha256_of(shop.restore_file(version)) == sha256_of(disk)
    assert done.peak_bytes < 150 * MIB


def test_a_machine_that_is_cut_off_ends_its_agent_and_the_next_attempt_sends_the_rest(
    server: SmbServer, shop: Workshop, tmp_path: Path
) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(noise("disk", 64 * MIB))
    ordered = Ordered.of(shop, disk)
    static = {"ip": "10.0.2.15", "nm": "255.255.255.0", "gw": HOST, "dns": "10.0.2.3"}
    with booted(built(tmp_path), tmp_path, [disk], **static) as machine:
        said = machine.run("cat /run/resolv.conf; ip -4 route show default").split()
        assert said[:5] == ["nameserver", "10.0.2.3", "default", "via", HOST]
        told = over_smb(server) | {"paths": {str(disk): f"{machine.devices}/vdb"}}

        def attempt(**changed: int | str) -> Attempt:
            return ordered.attempt(**told | changed)  # type: ignore[arg-type]

        slow = attempt(bytes_per_second=MIB, silence_seconds=20)
        with ThreadPoolExecutor(1) as beside:
            running = beside.submit(run_over_ssh, machine.address, slow.order)
            wait_until(lambda: ordered.log.packs > 1 or running.done(), "it sends", seconds=300)
            assert "likeness-agent" in machine.run(PROCESSES)
            with machine.cut_off():
                time.sleep(30)
                assert isinstance(running.exception(), TransferBroken)
        assert "likeness-agent" not in machine.run(PROCESSES)
        finished = sum(pack.size_bytes for pack in ordered.log)
        assert 0 < finished < 64 * MIB

        last = attempt(trial="in/again")
        done = run_over_ssh(machine.address, last.order)
    version = shop.commit(last.receipt(done))
    assert done.counts.repeated_bytes > 0
    assert shop.is_proved(version, shop.packs_of(version))
    assert sha256_of(shop.restore_file(version)) == sha256_of(disk)


def test_a_guest_s_volume_is_of_one_moment_while_it_is_written_to(
    server: SmbServer, shop: Workshop, tmp_path: Path
) -> None:
    disk = tmp_path / "disk.raw"
    disk.touch()
    os.truncate(disk, 192 * MIB)
    with booted(built(tmp_path, "lvm2"), tmp_path, [disk]) as machine:
        machine.run(
            "pvcreate -q /dev/vdb && vgcreate -q data /dev/vdb && lvcreate -q -n db -L 96M data &&"
            " mkfs.ext4 -q /dev/data/db && mkdir /db && mount /dev/data/db /db &&"
            f" echo 00000000 >/db/{FIRST} && head -c 40M /dev/urandom >/db/big &&"
            f" echo 00000000 >/db/{SECOND} && echo before >/db/state && sync"
        )
        machine.run(f"cat >/root/writer <<'END'\n{WRITER}END\n")
        machine.run("sh /root/writer </dev/null >/dev/null 2>&1 &")
        attempt = Ordered.of(shop, disk).attempt(
            paths={str(disk): "/dev/vdb"},
            guest=GuestOrder(
                mark=MARK,
                before="echo frozen >/db/state",
                after="echo later >/db/state; rm /db/big;"
                " head -c 30M /dev/zero | tr '\\0' x >/db/other; sync",
            ),
            **over_smb(server),  # type: ignore[arg-type]
        )
        done = run_over_ssh(machine.address, attempt.order)
        assert machine.run("lvs --noheadings -o lv_name").split() == ["db"]
        assert machine.run("cat /db/state") == "later\n"
        turns_now = int(machine.run(f"touch /root/stop; cat /db/{FIRST}"))
    frozen = attempt.order.frozen
    assert frozen is not None
    print(frozen)
    assert (frozen.consistency, "in LVM snapshots: data/db" in frozen.note) == ("standard", True)
    version = shop.commit(attempt.receipt(done))
    assert shop.is_proved(version, shop.packs_of(version))

    restored = shop.restore_file(version).read_bytes()
    words = restored[:VOLUME_AT]
    assert (b'creation_host = "likeness-abd"' in words, MARK.encode() in words) == (True, False)
    volume = tmp_path / "volume.raw"
    volume.write_bytes(restored[VOLUME_AT : VOLUME_AT + 96 * MIB])
    assert subprocess.run(["e2fsck", "-fn", volume], check=False).returncode == 0
    assert said_in(volume, "state") == "frozen\n"
    first, second = int(said_in(volume, FIRST)), int(said_in(volume, SECOND))
    print(f"written {turns_now} times, of which {second} before the snapshot")
    assert 0 <= first - second <= 1
    assert 0 < first < turns_now - 10, "somebody wrote all the while"


def said_in(volume: Path, file: str) -> str:
    asked = ["debugfs", "-R", f"cat /{file}", str(volume)]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout
