"""The agent as a process of its own: what it sends becomes versions, however it is treated."""

import asyncio
import os
import signal
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from likeness.agent.protocol import (
    AGENT_PACK_BYTES,
    HEAD_BYTES,
    FrameKind,
    frame,
    head_of,
    read_skips,
    skip_frames,
)
from likeness.errors import BadInput, Damaged, ShareUnreachable, StoreMissing, TransferBroken
from likeness.model.disk import Extent, Skips
from likeness.model.ids import ChunkId, VmId, random_name
from likeness.stopping import StopToken
from likeness.store.format import layout
from likeness.store.format.locations import PackLocations
from likeness.store.format.pack_log import PackLog
from likeness.transport.local import LocalTransport
from tests.agent.orders import AGENT, Ordered
from tests.unit.test_known_ids import DISK, known_of, require_only_own_sent
from tests.unit.workshop import CHUNK, MIB, PACK, Workshop, changed, noise


def test_what_an_agent_sends_becomes_versions_that_restore(workshop: Workshop) -> None:
    vm = VmId(random_name())
    first = noise(1, 20 * CHUNK) + bytes(8 * CHUNK) + noise(2, 3 * CHUNK + 512)
    later = changed(first, (2 * CHUNK + 7, b"written"), (9 * CHUNK, bytes(2 * CHUNK)))
    other = noise(3, 5 * CHUNK)
    sent = []
    for disks in ((first, other), (later, other)):
        attempt = Ordered.of(workshop, *disks, vm=vm).attempt()
        done = attempt.run()
        version = workshop.commit(attempt.receipt(done))
        assert [workshop.restore_in_memory(version, at) for at in (0, 1)] == list(disks)
        assert workshop.is_proved(version, workshop.packs_of(version))
        assert attempt.code == 0
        assert done.cpu_seconds > 0
        sent.append(done.counts.sent_bytes)

    assert CHUNK < sent[1] < 2 * CHUNK < 28 * CHUNK < sent[0]
    assert done.counts.unchanged_bytes == (20 + 3 + 5 - 3) * CHUNK + 512
    assert workshop.names(layout.INBOX) == []


def test_ranges_that_did_not_change_are_not_read(workshop: Workshop) -> None:
    vm = VmId(random_name())
    disk = noise(1, 12 * MIB)
    attempt = Ordered.of(workshop, disk, vm=vm).attempt()
    workshop.commit(attempt.receipt(attempt.run()))
    later = changed(disk, (5 * MIB, b"written"))

    attempt = Ordered.of(workshop, later, vm=vm).attempt(
        skips=Skips((Extent(0, 4 * MIB), Extent(8 * MIB, 4 * MIB)))
    )
    done = attempt.run()

    assert done.counts.read_bytes == 4 * MIB
    assert workshop.restore_in_memory(workshop.commit(attempt.receipt(done))) == later


def test_of_more_ranges_than_an_agent_is_told_it_is_told_the_longest() -> None:
    told = [Extent(0, 3 * CHUNK), Extent(5 * CHUNK, CHUNK), Extent(9 * CHUNK, 2 * CHUNK)]
    (said,) = skip_frames(1, told, most=2)
    assert read_skips(said[HEAD_BYTES:], 2) == (1, [told[0], told[2]])
    (said,) = skip_frames(1, told)
    assert read_skips(said[HEAD_BYTES:], 2) == (1, told)


def test_what_the_store_has_already_is_not_sent(workshop: Workshop) -> None:
    known = known_of(workshop, workshop.back_up(DISK))
    clone = changed(DISK, (CHUNK, noise("own", CHUNK)))
    attempt = Ordered.of(workshop, clone).attempt(known=known)

    require_only_own_sent(workshop, attempt.receipt(attempt.run()), clone)


def test_a_disk_that_became_smaller_is_backed_up(workshop: Workshop) -> None:
    vm = VmId(random_name())
    disk = noise(1, 9 * CHUNK)
    for now in (disk, disk[: 4 * CHUNK], disk):
        attempt = Ordered.of(workshop, now, vm=vm).attempt()
        version = workshop.commit(attempt.receipt(attempt.run()))
        assert workshop.restore_in_memory(version) == now


def test_another_version_of_the_protocol_is_refused_with_a_sentence(workshop: Workshop) -> None:
    attempt = Ordered.of(workshop, noise(1, CHUNK)).attempt(protocol=99)

    with pytest.raises(BadInput, match=r"speaks version 99 .* install the same release on both"):
        attempt.run()

    assert attempt.code == 1


def test_what_fails_there_is_told_as_if_it_had_failed_here(workshop: Workshop) -> None:
    ordered = Ordered.of(workshop, noise(1, CHUNK))
    with pytest.raises(StoreMissing):
        ordered.attempt(place="/nowhere").run()
    with pytest.raises(ShareUnreachable):
        ordered.attempt(place="smb://127.0.0.1:1/share", username="a", trial="in/x").run()
    attempt = ordered.attempt()
    ordered.paths[0].unlink()
    with pytest.raises(BadInput, match=r"cannot be read: No such file"):
        attempt.run()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_second_attempt_sends_only_the_rest(workshop: Workshop, how: signal.Signals) -> None:
    """Killed, or told to end as by a machine that shuts down: a retry can help both times."""
    disk = noise(1, 32 * MIB)
    ordered = Ordered.of(workshop, disk)

    def kill_later(process: asyncio.subprocess.Process) -> None:
        def when_some_are_sent() -> None:
            while ordered.log.packs < 24:
                time.sleep(0.005)
            os.kill(process.pid, how)

        threading.Thread(target=when_some_are_sent, daemon=True).start()

    with pytest.raises(TransferBroken, match="before it was done"):
        ordered.attempt(bytes_per_second=16 * MIB).run(kill_later)
    finished = sum(pack.size_bytes for pack in ordered.log)
    assert 24 * PACK <= finished < len(disk)
    held = {place.chunk for pack in ordered.log for place in pack.locations}
    packs = ordered.log.packs

    attempt = ordered.attempt()
    done = attempt.run()

    new = [place.chunk for pack in list(ordered.log)[packs:] for place in pack.locations]
    assert held.isdisjoint(new)
    assert len(held) + len(new) == len(disk) // CHUNK
    assert done.counts.sent_bytes == sum(pack.size_bytes for pack in ordered.log)
    version = workshop.commit(attempt.receipt(done))
    assert workshop.restore_in_memory(version) == disk


def begun(workshop: Workshop, silence_seconds: float = 2) -> "subprocess.Popen[bytes]":
    """An agent in the middle of a transfer that takes long, without anybody who listens."""
    ordered = Ordered.of(workshop, noise(1, 48 * MIB))
    order = ordered.attempt(bytes_per_second=MIB, silence_seconds=silence_seconds).order
    process = subprocess.Popen(AGENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    for piece in order.frames():
        process.stdin.write(piece)
    process.stdin.flush()
    assert process.stdout is not None
    while True:
        kind, length = head_of(process.stdout.read(HEAD_BYTES))
        process.stdout.read(length)
        if kind is FrameKind.PROGRESS:
            return process


def end(process: "subprocess.Popen[bytes]") -> None:
    """Wait for the end of an agent that is told to end, if it has not come yet."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.terminate()
    process.wait(60)
    process.stdin.close()
    process.stdout.close()


@pytest.mark.parametrize("how", ["terminated", "left"])
def test_it_ends_when_it_is_told_to_and_when_its_controller_leaves(
    workshop: Workshop, how: str
) -> None:
    process = begun(workshop)
    assert process.stdin is not None
    assert process.stdout is not None
    if how == "terminated":
        process.terminate()
    else:
        process.stdin.close()
    assert process.wait(60) in (1, 2)
    process.stdin.close()
    process.stdout.close()


def test_it_ends_when_its_controller_falls_silent(workshop: Workshop) -> None:
    process = begun(workshop)
    assert process.stdin is not None
    assert process.stdout is not None
    before = time.monotonic()
    assert process.wait(120) in (1, 2)
    assert time.monotonic() - before > 1
    process.stdin.close()
    process.stdout.close()


def test_files_of_an_agent_that_was_killed_are_gone_once_the_next_begins(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    runs, killed = begun(workshop, 60), begun(workshop, 60)
    folders = {folder.name for folder in scratch.iterdir()}
    assert len(folders) == 2
    killed.kill()
    end(killed)
    assert {folder.name for folder in scratch.iterdir()} == folders

    end(begun(workshop))

    (left,) = scratch.iterdir()
    assert left.name in folders
    end(runs)
    assert [*scratch.iterdir()] == []


def test_a_stop_ends_it(workshop: Workshop) -> None:
    stop = StopToken()
    attempt = Ordered.of(workshop, noise(1, 48 * MIB)).attempt(
        stop=stop, bytes_per_second=MIB, passed=lambda _: stop.stop()
    )
    with pytest.raises(Exception, match="stopped on request"):
        attempt.run()
    assert attempt.code in (1, 2)


def test_a_huge_disk_takes_little_memory(workshop: Workshop, tmp_path: Path) -> None:
    path = tmp_path / "huge.raw"
    with path.open("wb") as file:
        file.truncate(256 << 30)
        for at in (0, 100 << 30, 255 << 30):
            file.seek(at)
            file.write(noise(at, 64 * MIB))
    (tmp_path / "large").mkdir()
    shop = Workshop(tmp_path, transport=LocalTransport(tmp_path / "large"), chunk_bytes=256 << 10)
    ordered = Ordered.of(shop, path)
    attempt = ordered.attempt(pack_bytes=AGENT_PACK_BYTES, workers=0)
    done = attempt.run()
    print(f"peak {done.peak_bytes / MIB:.0f} MiB, {done.cpu_seconds} s")
    assert done.peak_bytes < 150 * MIB


def test_an_agent_that_lies_about_a_pack_makes_no_version(workshop: Workshop) -> None:
    attempt = Ordered.of(workshop, noise(1, 9 * CHUNK)).attempt()
    receipt = attempt.receipt(attempt.run())
    lies = PackLog(workshop.folder / "lies")
    for pack in receipt.packs:
        one, *rest = pack.locations
        lie = replace(one, chunk=ChunkId(bytes(31) + b"x"))
        lies.append(replace(pack, locations=PackLocations.of((lie, *rest))))

    with pytest.raises(Damaged, match="does not hold what its sender says"):
        workshop.commit(replace(receipt, packs=lies))


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (FrameKind.RECEIPT, b"short"),
        (FrameKind.RECEIPT, bytes(16) + b"\xff" * 60),
        (FrameKind.MAP, bytes(10) + b"x" * 31),
        (FrameKind.MAP, b"\0\0" + b"\xff" * 8 + bytes(32)),
        (FrameKind.MAP, b"\7\0" + bytes(8) + bytes(32)),
        (FrameKind.END, b"{}"),
    ],
)
def test_nonsense_from_an_agent_is_refused(
    workshop: Workshop, kind: FrameKind, payload: bytes
) -> None:
    order = Ordered.of(workshop, noise(1, 9 * CHUNK)).attempt().order
    with pytest.raises((BadInput, Damaged, TransferBroken)):
        order.take(kind, payload)
    with pytest.raises(BadInput, match="does not speak the agent's language"):
        head_of(b"Last ")
    assert frame(FrameKind.GO) == b"\6\0\0\0\0"
