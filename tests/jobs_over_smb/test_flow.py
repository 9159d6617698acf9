"""A job of the flows whose data store is a share: from the pool to green versions, and back."""

from collections.abc import Generator
from pathlib import Path

import pytest
from pydantic import SecretStr

from blocks import DataStoreShare, XenPool
from catalog.values import Verdict
from flows.set_up import set_up_site
from lab.pool import Pool
from lab.serving import LabServer
from lab.settings import Settings
from likeness.transport.smb import SmbTransport
from tests.flows.scene import MIB, NOTHING_LEFT, QUICK, Scene, image, noise, two_vms
from tests.smb.server import SmbServer

pytestmark = [pytest.mark.prefect, pytest.mark.smb, pytest.mark.lab]


@pytest.fixture
def scene(server: SmbServer, prefect_server: None, tmp_path: Path) -> Generator[Scene, None, None]:
    """Two VMs, and a site that keeps their versions on a share."""
    pool = Pool(Settings(**QUICK))
    for name, disks in two_vms().items():
        images = [
            image(tmp_path, f"{name}-{at}", disk)
            for at, disk in enumerate(disks)
            if isinstance(disk, bytes)
        ]
        pool.add_vm(name, images)
    (tmp_path / "here").mkdir()
    with LabServer(pool) as lab:
        made = set_up_site(
            "over-a-share",
            pool=XenPool(url=lab.url, username=lab.username, password=SecretStr(lab.password)),
            data_store=DataStoreShare(
                place=f"smb://127.0.0.1:{server.port}/ads/backups/likeness",
                username=server.username,
                password=SecretStr(server.password),
                key_file=str(tmp_path / "here" / "store.key"),
            ),
            folder=tmp_path / "here",
        )
        yield Scene("over-a-share", made.site, lab, tmp_path, made.recovery_words)


def test_jobs_over_a_share_make_green_versions_that_restore_bit_for_bit(
    server: SmbServer, scene: Scene
) -> None:
    before = scene.disks("web")
    first = scene.back_up("web", "db", validated=True)
    scene.pool.write("web", disk=0, offset=MIB, data=noise("new", 256 << 10))
    after = scene.disks("web")
    second = scene.back_up("web", validated=True)

    assert (first.name, first.message) == ("Completed", "2 VMs backed up")
    assert (second.name, second.message) == ("Completed", "1 VM backed up")
    assert scene.verdicts() == [Verdict.GOOD] * 3
    newest, oldest = scene.listed("web")
    assert scene.restore(oldest.version) == before
    assert scene.restore(newest.version) == after != before
    assert scene.restore(scene.newest("db").version) == scene.disks("db")
    assert scene.left_in_the_pool() == NOTHING_LEFT
    with scene.store() as store:
        assert isinstance(store.transport, SmbTransport)
        assert store.transport.folders("in") == []
    assert len(list((server.folder() / "backups/likeness/versions").rglob("*-*"))) == 3
