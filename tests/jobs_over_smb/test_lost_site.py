"""The site is gone: its versions come back from each of its vaults, as docs/recovery.md says.

Real servers all the way: two of Samba, one of S3, Prefect, and the commands of the page.
"""

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL
from pydantic import SecretStr

from blocks import DataStoreShare, Site, SiteBlock, Vault, XenPool
from catalog.values import Verdict
from flows.set_up import set_up_site
from flows.vault import check_vault, vault
from lab.pool import Pool
from lab.serving import LabServer
from lab.settings import Settings
from likeness.model.ids import random_name
from tests.cli.conftest import ROOT
from tests.flows.scene import MIB, QUICK, Scene, image, noise, outcomes
from tests.s3.server import KEY, SECRET, S3Server
from tests.smb.server import SmbServer

pytestmark = [pytest.mark.prefect, pytest.mark.smb, pytest.mark.lab]
PAGE = (ROOT / "docs" / "recovery.md").read_text()


@pytest.fixture
def second() -> Generator[SmbServer, None, None]:
    """Another file server, for the vault."""
    made = SmbServer()
    try:
        made.start()
        yield made
    finally:
        made.remove()


@pytest.fixture
def s3() -> Generator[S3Server, None, None]:
    made = S3Server()
    try:
        made.start()
        yield made
    finally:
        made.stop()


def account(server: SmbServer, place: str) -> dict[str, Any]:
    password = SecretStr(server.password)
    return {"place": place, "username": server.username, "password": password}


def documented(place: str, *without: str) -> list[str]:
    """The page's command that recovers from a place like this."""
    lines = [
        line
        for line in PAGE.splitlines()
        if line.startswith("likeness recover ")
        and f"--store {place}" in line
        and not any(word in line for word in without)
    ]
    assert len(lines) == 1
    return shlex.split(lines[0].removeprefix("likeness recover "))


def typed(command: list[str], answers: list[str], **real: str) -> str:
    """Type a command of the page, its examples replaced; what it says."""
    words = [real.get(word, word) for word in command]
    done = subprocess.run(
        [sys.executable, "-m", "likeness", "recover", *words],
        cwd=ROOT,
        env={**os.environ, "PREFECT_API_URL": str(PREFECT_API_URL.value())},
        input="".join(f"{answer}\n" for answer in answers),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.torture  # its small siblings are tests/flows/test_recover.py
def test_a_site_that_is_gone_comes_back_from_each_of_its_vaults(
    server: SmbServer,
    second: SmbServer,
    s3: S3Server,
    prefect_server: None,
    tmp_path: Path,
) -> None:
    name, begun = f"site-{random_name()[:8]}", time.monotonic()
    pool = Pool(Settings(**QUICK))
    pool.add_vm("web", [image(tmp_path, "web", noise("web", 2 * MIB))])
    (tmp_path / "here").mkdir()
    share = f"smb://127.0.0.1:{second.port}/vault/backups/likeness"
    bucket = f"s3://{s3.bucket()}/likeness"
    with LabServer(pool) as lab:
        made = set_up_site(
            name,
            pool=XenPool(url=lab.url, username=lab.username, password=SecretStr(lab.password)),
            data_store=DataStoreShare(
                key_file=str(tmp_path / "here" / "store.key"),
                **account(server, f"smb://127.0.0.1:{server.port}/ads/backups/likeness"),
            ),
            vault=Vault(**account(second, share)),
            folder=tmp_path / "here",
        )
        site = Scene(name, made.site, lab, tmp_path, made.recovery_words)
        disks: dict[str, list[str]] = {}
        for night in range(2):
            assert site.back_up("web", validated=True).name == "Completed"
            disks[site.newest("web").version] = site.disks("web")
            pool.write("web", disk=0, offset=MIB, data=noise(night, 200_000))
        copied: Any = vault(site=name)
        assert check_vault(site=name, return_state=True).is_completed()
        login = {"username": KEY, "password": SecretStr(SECRET)}
        in_bucket = {"place": bucket, "endpoint": s3.endpoint, "encrypt": False, **login}
        site.save(vault=in_bucket)
        assert vault(site=name, return_state=True).is_completed()

        shutil.rmtree(server.folder())
        shutil.rmtree(tmp_path / "here")
        SiteBlock.delete(name)

        folder = tmp_path / "from-the-share"
        told = typed(
            [
                *documented("smb://", "--dry-run"),
                *("--account", lab.username, "--folder", str(folder)),
            ],
            [lab.password, second.password, made.recovery_words],
            **{
                "main": name,
                "https://xen1.example": lab.url,
                "smb://nas.example/backups/likeness": share,
                "backup": second.username,
            },
        )
        assert "  versions      2, unchecked until they are validated" in told
        back = Scene(name, Site.named(name), lab, folder, made.recovery_words)
        assert {row.version: back.restore(row.version) for row in back.listed()} == disks
        ended = back.back_up("web", validated=True)
        assert ended.name == "Completed", ended.message
        assert 200_000 <= outcomes(ended)["web"].sent_bytes < MIB, "only what changed"
        assert back.verdicts()[0] is Verdict.GOOD

        other, folder = f"{name}-s3", tmp_path / "from-the-bucket"
        told = typed(
            [*documented("s3://"), "--signed-only", "--folder", str(folder)],
            [SECRET, made.recovery_words],
            **{
                "main": other,
                "s3://bucket/likeness": bucket,
                "ACCESS-KEY": KEY,
                "https://minio.example:9000": s3.endpoint,
            },
        )
        again = Scene(other, Site.named(other), lab, folder, made.recovery_words)
        assert {row.version: again.restore(row.version) for row in again.listed()} == disks
    print(f"{copied.copied_bytes} bytes vaulted; {time.monotonic() - begun:.0f} s in all")
