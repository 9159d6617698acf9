"""Disks as VHD, whole and as differences, checked by qemu where it is installed."""

import random
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from lab.serving import LabServer
from lab.storage.vhd import BadVhd, read_vhd
from tests.lab.clients import Xen

MIB = 1 << 20
SECTOR = 512


class Bytes:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def read(self, length: int) -> bytes:
        part = self.data[self.at : self.at + length]
        self.at += len(part)
        return part


def apply(vhd: bytes, content: bytearray) -> list[tuple[int, int]]:
    """Write what a VHD marks over `content`; returns the ranges."""
    ranges = []
    for offset, data in read_vhd(Bytes(vhd).read):
        if data:
            content[offset : offset + len(data)] = data
            ranges.append((offset, offset + len(data)))
    return ranges


def frozen(xen: Xen, name: str = "web") -> str:
    snapshot = xen.api.VM.snapshot(xen.vm(name), "s")
    return xen.disks(snapshot)[0]


def test_a_whole_disk_holds_only_the_blocks_with_data(lab: LabServer, xen: Xen) -> None:
    data = random.Random(1).randbytes(70_000)
    lab.pool.write("web", 0, 5 * MIB + 100, data)
    answer, vhd = xen.get(frozen(xen), format="vhd")
    assert answer.getheader("content-type") == "application/vhd"
    assert vhd[:8] == b"conectix"
    assert vhd[-512:] == vhd[:512]
    assert vhd[512:520] == b"cxsparse"
    (kind,) = struct.unpack_from(">I", vhd, 60)
    assert kind == 3
    table = struct.unpack_from(">4I", vhd, 1536)
    assert [entry == 0xFFFFFFFF for entry in table] == [True, True, False, True]
    assert len(vhd) == 2048 + 512 + 2 * MIB + 512
    content = bytearray(8 * MIB)
    apply(vhd, content)
    assert content == lab.pool.disk_of("web", 0).read(0, 8 * MIB)


def test_checksums_are_the_complement_of_the_sum_of_the_bytes(xen: Xen) -> None:
    _, vhd = xen.get(frozen(xen), format="vhd")
    for start, length, at in ((0, 512, 64), (512, 1024, 36)):
        part = bytearray(vhd[start : start + length])
        (stored,) = struct.unpack_from(">I", part, at)
        part[at : at + 4] = bytes(4)
        assert stored == ~sum(part) & 0xFFFFFFFF


def test_a_difference_holds_exactly_the_sectors_written_since(lab: LabServer, xen: Xen) -> None:
    chance = random.Random(2)
    lab.pool.write("web", 0, 0, chance.randbytes(8 * MIB))
    first = frozen(xen)
    before = bytearray(lab.pool.disks[first].read(0, 8 * MIB))
    lab.pool.write("web", 0, 3 * MIB + 700, b"x" * 10)
    lab.pool.write("web", 0, 2 * MIB - 512, b"y" * 1024)
    second = frozen(xen)
    for base in (first, xen.api.VDI.get_uuid(first)):
        _, vhd = xen.get(second, format="vhd", base=base)
        (kind,) = struct.unpack_from(">I", vhd, 60)
        assert kind == 4
        content = bytearray(before)
        ranges = apply(vhd, content)
        assert ranges == [
            (2 * MIB - 512, 2 * MIB),
            (2 * MIB, 2 * MIB + 512),
            (3 * MIB + 512, 3 * MIB + 1024),
        ]
        assert content == lab.pool.disks[second].read(0, 8 * MIB)


@pytest.mark.parametrize("seed", range(5))
def test_a_chain_of_differences_rebuilds_every_day(lab: LabServer, xen: Xen, seed: int) -> None:
    chance = random.Random(seed)
    base, content = "", bytearray(8 * MIB)
    for day in range(8):
        for _ in range(chance.randrange(6)):
            offset = chance.randrange(8 * MIB)
            length = chance.randrange(min(8 * MIB - offset, 500_000) + 1)
            lab.pool.write("web", 0, offset, chance.choice((bytes, chance.randbytes))(length))
        disk = frozen(xen)
        _, vhd = xen.get(disk, format="vhd", **({"base": base} if base else {}))
        apply(vhd, content)
        assert content == lab.pool.disks[disk].read(0, 8 * MIB), f"day {day}"
        if base:
            xen.api.VM.destroy(xen.api.VBD.get_VM(xen.api.VDI.get_VBDs(base)[0]))
            xen.until_free(base)
            xen.api.VDI.destroy(base)
        base = disk


def test_a_base_without_data_is_refused(xen: Xen) -> None:
    xen.api.VDI.enable_cbt(xen.disks(xen.vm("web"))[0])
    base = frozen(xen)
    xen.api.VM.destroy(xen.api.VBD.get_VM(xen.api.VDI.get_VBDs(base)[0]))
    xen.api.VDI.data_destroy(base)
    answer, _ = xen.get(frozen(xen), format="vhd", base=base)
    record = xen.wait(answer.getheader("task-id") or "")
    assert record["error_info"] == ["VDI_INCOMPATIBLE_TYPE", base, "cbt_metadata"]


def test_what_was_exported_can_be_imported(lab: LabServer, xen: Xen) -> None:
    chance = random.Random(4)
    lab.pool.write("web", 0, MIB - 3, chance.randbytes(3 * MIB))
    disk = frozen(xen)
    vhd = xen.export(disk, format="vhd")
    target = xen.new_disk(8 * MIB)
    assert xen.put(target, vhd, format="vhd")["result"] == f"<value>{target}</value>"
    assert xen.export(target) == xen.export(disk)
    lab.pool.write("web", 0, 6 * MIB, b"later")
    later = frozen(xen)
    xen.put(target, xen.export(later, format="vhd", base=disk), format="vhd")
    assert xen.export(target) == xen.export(later)


def test_damaged_or_oversized_files_are_io_errors(xen: Xen) -> None:
    vhd = xen.export(frozen(xen), format="vhd")
    small, target = xen.new_disk(2 * MIB), xen.new_disk(8 * MIB)
    for disk, data in ((target, b"no vhd" * 200), (target, vhd[:1000]), (small, vhd)):
        record = xen.put(disk, data, format="vhd")
        assert record["error_info"][0] == "VDI_IO_ERROR"


@pytest.mark.parametrize("damage", [b"", b"conectix", b"x" * 4096])
def test_what_is_no_vhd_is_said_to_be_none(damage: bytes) -> None:
    with pytest.raises(BadVhd):
        list(read_vhd(Bytes(damage).read))


@pytest.mark.needs("qemu-img")
def test_qemu_agrees_in_both_directions(lab: LabServer, xen: Xen, tmp_path: Path) -> None:
    program = shutil.which("qemu-img")
    assert program is not None
    lab.pool.write("web", 0, 0, random.Random(9).randbytes(3 * MIB))
    lab.pool.write("web", 0, 8 * MIB - 600, b"the end")
    disk = frozen(xen)
    ours, raw = tmp_path / "ours.vhd", tmp_path / "ours.raw"
    ours.write_bytes(xen.export(disk, format="vhd"))
    force = "driver=vpc,force_size_calc=current_size,file.filename="
    subprocess.run(
        [program, "convert", "--image-opts", "-O", "raw", f"{force}{ours}", raw],
        check=True,
        timeout=120,
    )
    content = raw.read_bytes()
    assert content == xen.export(disk)

    theirs = tmp_path / "theirs.vhd"
    for kind in ("dynamic", "fixed"):
        options = f"subformat={kind},force_size=on"
        subprocess.run(
            [program, "convert", "-f", "raw", "-O", "vpc", "-o", options, raw, theirs],
            check=True,
            timeout=120,
        )
        target = xen.new_disk(8 * MIB)
        assert xen.put(target, theirs.read_bytes(), format="vhd")["status"] == "success"
        assert xen.export(target) == content
