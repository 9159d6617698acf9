"""Whole VMs as archives."""

import io
import random
import tarfile

import pytest
import xxhash

from lab.archive import write_archive
from lab.serving import LabServer
from tests.lab.clients import Xen

MIB = 1 << 20
BOTH_PROTOCOLS = True


@pytest.fixture
def snapshot(lab: LabServer, xen: Xen) -> str:
    lab.pool.write("web", 0, 3 * MIB + 5, random.Random(1).randbytes(MIB))
    lab.pool.write("web", 1, 0, b"second disk")
    return str(xen.api.VM.snapshot(xen.vm("web"), "archived"))


def test_an_archive_holds_a_description_and_the_pieces_with_data(
    lab: LabServer, snapshot: str
) -> None:
    body = b"".join(write_archive(lab.pool, snapshot))
    with tarfile.open(fileobj=io.BytesIO(body)) as tar:
        names = tar.getnames()
        contents = {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]
    assert names[0] == "ova.xml"
    first = names[1].split("/")[0]
    numbers = [int(n.split("/")[1]) for n in names[1::2] if n.startswith(first)]
    assert numbers == [0, 3, 4, 7]
    for name in names[1::2]:
        assert contents[f"{name}.xxhash"].decode() == xxhash.xxh64(contents[name]).hexdigest()
