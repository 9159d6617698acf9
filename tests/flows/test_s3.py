"""A bucket of object storage as the vault, and as the data store, on a real S3 server."""

from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from pydantic import SecretStr

from blocks import DataStoreShare
from catalog.values import Verdict
from flows.set_up import set_up_site
from flows.vault import vault
from likeness.errors import BadInput, NoVault
from tests.cli.conftest import Shell
from tests.flows.scene import Scene, open_scene, sha256
from tests.s3.server import KEY, SECRET, S3Server

pytestmark = [pytest.mark.prefect, pytest.mark.lab]


@pytest.fixture(scope="module")
def s3() -> Generator[S3Server, None, None]:
    server = S3Server()
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, prefect_server: None
) -> Generator[Scene, None, None]:
    """One for all; each test has buckets of its own."""
    with open_scene(tmp_path_factory.mktemp("s3") / "site") as made:
        yield made


def account(server: S3Server, place: str) -> dict[str, Any]:
    return {
        "place": place,
        "username": KEY,
        "password": SecretStr(SECRET),
        "endpoint": server.endpoint,
        "encrypt": False,  # the test's server has no certificate
    }


def test_a_vault_in_a_bucket_restores_when_the_data_store_is_gone(
    site: Scene, s3: S3Server, tmp_path: Path
) -> None:
    bucket = s3.bucket()
    site.save(vault=account(s3, f"s3://{bucket}/far away"))
    ended = site.back_up("web", "db", vault=True)
    assert ended.name == "Completed", ended.message
    again: Any = vault(site=site.name)
    assert (again.objects, again.problems) == (0, ())
    rows = {vm: site.newest(vm) for vm in ("web", "db")}
    assert rows["web"].vaults == (f"s3://{bucket}/far away",)
    away = site.place.rename(site.folder / "away")

    for vm, row in rows.items():
        assert site.restore(row.version, from_vault=True) == site.disks(vm)
    (tmp_path / "words").write_text(site.recovery_words)
    (tmp_path / "secret").write_text(SECRET)
    for name in ("words", "secret"):
        (tmp_path / name).chmod(0o600)
    to = tmp_path / "db.raw"
    done = Shell(tmp_path).run(
        *("restore", rows["db"].version, "--to", to, "--store", f"s3://{bucket}/far away"),
        *("--user", KEY, "--password-file", tmp_path / "secret", "--endpoint", s3.endpoint),
        *("--signed-only", "--words-file", tmp_path / "words"),
    )

    assert done.returncode == 0, done.stderr
    assert [sha256(to.read_bytes())] == site.disks("db")
    assert SECRET not in done.stdout + done.stderr
    away.rename(site.place)


def test_a_data_store_in_a_bucket_is_backed_up_to_validated_and_restored_from(
    site: Scene, s3: S3Server
) -> None:
    place = f"s3://{s3.bucket()}/ads"
    name, folder = f"{site.name}-s3", site.folder / "there"
    store = DataStoreShare(key_file=str(folder / "store.key"), **account(s3, place))
    made = set_up_site(name, pool=site.site.xen_pool, data_store=store, folder=folder)
    here = Scene(name, made.site, site.lab, site.folder, made.recovery_words)

    for _ in range(2):
        assert here.back_up("web", "db").name == "Completed"
    assert here.validate().is_completed()

    assert here.verdicts() == [Verdict.GOOD] * 4
    for row in here.listed():
        assert here.restore(row.version) == here.disks(row.vm_name)
    assert sum(row.counts.sent_bytes > 0 for row in here.listed()) == 2, "only what changed"


def test_a_vault_that_is_the_bucket_of_the_data_store_is_refused(site: Scene, s3: S3Server) -> None:
    place = f"s3://{s3.bucket()}"
    assert site.site.vault is not None
    second = site.site.vault.model_copy(update=account(s3, f"{place}/ads"))
    folder = site.folder / "refused"
    store = DataStoreShare(key_file=str(folder / "store.key"), **account(s3, f"{place}/ads"))

    with pytest.raises(NoVault, match="second place"):
        set_up_site(
            "another", pool=site.site.xen_pool, data_store=store, folder=folder, vault=second
        )
    with pytest.raises(BadInput, match="does not encrypt the connection"):
        second.model_copy(update={"encrypt": True}).connect()


def test_a_bucket_with_locks_keeps_what_versions_need_and_for_as_long_as_the_last_needs_it(
    site: Scene, s3: S3Server
) -> None:
    bucket = s3.bucket(locks=True)
    site.save(vault={**account(s3, f"s3://{bucket}/far"), "locked_days": 3})
    client = s3.client()

    def kept(folder: str) -> dict[str, timedelta]:
        pages = client.list_objects_v2(Bucket=bucket, Prefix=f"far/{folder}/")
        found = {}
        for each in pages["Contents"]:
            head = client.head_object(Bucket=bucket, Key=each["Key"])
            found[each["Key"]] = head["ObjectLockRetainUntilDate"] - datetime.now(UTC)
        return found

    assert site.back_up("web", "db", vault=True).name == "Completed"
    versions = len(site.listed())
    first = {folder: kept(folder) for folder in ("packs", "versions", "maps", "index")}
    assert all(timedelta(days=3) < left for each in first.values() for left in each.values())
    key = next(iter(first["packs"]))
    (version,) = client.list_object_versions(Bucket=bucket, Prefix=key)["Versions"]
    with pytest.raises(ClientError, match="AccessDenied"):
        client.delete_object(Bucket=bucket, Key=key, VersionId=version["VersionId"])

    site.save(vault={"locked_days": 20})
    assert site.back_up("web", "db", vault=True).name == "Completed"

    assert all(left > timedelta(days=20) for left in kept("packs").values()), "they need the same"
    records = sorted(kept("versions").values())
    assert [left > timedelta(days=20) for left in records] == [False] * versions + [True] * 2
