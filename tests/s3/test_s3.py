"""What object storage has of its own: conditional puts, locks, versions, and no renames."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from likeness.errors import (
    BadInput,
    NameTaken,
    NoVault,
    ObjectMissing,
    ShareRefused,
    ShareUnreachable,
    StoreMissing,
)
from likeness.store.repair.second_place import require_second_place
from likeness.transport.local import LocalTransport
from likeness.transport.s3 import S3Address, S3Transport
from tests.s3.server import KEY, SECRET, S3Server


def test_two_stores_in_one_bucket_do_not_see_each_other(s3: S3Server) -> None:
    bucket = s3.bucket()
    one, two = s3.transport(bucket, "one"), s3.transport(bucket, "two")
    one.create("packs/a", [b"1"])
    two.create("packs/a", [b"22"])
    assert [entry.size_bytes for entry in one.entries("")] == [1]
    assert two.folders("") == ["packs"]
    assert one.read("packs/a") == b"1"


def test_a_bucket_that_is_not_there_is_said(s3: S3Server) -> None:
    with pytest.raises(StoreMissing, match="no bucket nowhere-at-all"):
        s3.transport("nowhere-at-all")


def test_a_server_that_is_gone_is_unreachable_and_comes_back(s3: S3Server) -> None:
    alone = S3Server(alone=True)
    alone.start()
    try:
        transport = alone.transport(alone.bucket())
        alone.stop()
        with pytest.raises(ShareUnreachable):
            transport.read("packs/a")
        alone.start()
        with pytest.raises(StoreMissing):
            transport.create("packs/a", [b"1"])  # this server forgets, as no other does
    finally:
        alone.stop()


def test_a_locked_object_is_not_deleted_before_its_time(s3: S3Server) -> None:
    bucket = s3.bucket(locks=True)
    until = datetime.now(UTC).replace(microsecond=0) + timedelta(days=7)
    transport = s3.transport(bucket, lock_until=until)
    transport.create("packs/a", [b"kept"])
    versions = s3.client().list_object_versions(Bucket=bucket)["Versions"]
    with pytest.raises(Exception, match="AccessDenied"):
        s3.client().delete_object(Bucket=bucket, Key="packs/a", VersionId=versions[0]["VersionId"])
    later = until + timedelta(days=7)
    transport.keep_until("packs/a", later)
    found = s3.client().head_object(Bucket=bucket, Key="packs/a")
    assert str(found["ObjectLockRetainUntilDate"])[:10] == str(later)[:10]


def test_a_bucket_without_locks_says_so(s3: S3Server) -> None:
    transport = s3.transport(s3.bucket())
    transport.create("packs/a", [b"1"])
    with pytest.raises(ShareRefused):
        transport.keep_until("packs/a", datetime.now(UTC) + timedelta(days=1))
    with pytest.raises(ObjectMissing):
        transport.read("packs/b")


def test_a_deleted_name_may_be_created_again(s3: S3Server) -> None:
    transport = s3.transport(s3.bucket())
    transport.create("packs/a", [b"1"])
    with pytest.raises(NameTaken):
        transport.create("packs/a", [b"1"])
    transport.delete("packs/a")
    transport.create("packs/a", [b"2"])
    assert transport.read("packs/a") == b"2"


@pytest.mark.parametrize(
    ("place", "bucket", "path"),
    [
        ("s3://abc", "abc", ""),
        ("s3://abc/", "abc", ""),
        ("s3://a.b-c/x/y/", "a.b-c", "x/y"),
        (" S3://abc//x y//z\n", "abc", "x y/z"),
    ],
)
def test_a_place_is_read(place: str, bucket: str, path: str) -> None:
    address = S3Address.of(place)
    assert (address.bucket, address.path) == (bucket, path)


@pytest.mark.parametrize(
    "place",
    [
        "s3://",
        "s3:///x",
        "s3://UPPER/x",
        "smb://a/b",
        "s3://abc/../x",
        "s3://abc/x\0",
        "s3://abc/a\nb",
    ],
)
def test_what_is_no_place_is_refused(place: str) -> None:
    with pytest.raises(BadInput):
        S3Address.of(place)


def test_a_secret_is_in_no_error(s3: S3Server) -> None:
    address = S3Address("nowhere-at-all", endpoint="http://127.0.0.1:9")
    with pytest.raises(ShareUnreachable) as told:
        S3Transport(address, access_key=KEY, secret_key=SECRET)
    assert SECRET not in repr(told.value)


def test_what_cannot_be_reached_is_said_before_anybody_is_asked() -> None:
    wrong: list[dict[str, Any]] = [
        {"endpoint": "minio.example:9000"},
        {"endpoint": f"https://me:{SECRET}@minio.example"},
        {"endpoint": "https://minio.example/bucket"},
        {"ca_file": "/nowhere/ca.pem"},
        {"region": ""},
    ]
    for settings in wrong:
        with pytest.raises(BadInput) as told:
            S3Transport(S3Address("abc", **settings), access_key=KEY, secret_key=SECRET)
        assert SECRET not in str(told.value)
    with pytest.raises(BadInput, match="needs an access key"):
        S3Transport(S3Address("abc"), access_key="", secret_key="")
    with pytest.raises(BadInput) as told:
        S3Address.of(f"s3://{KEY}:{SECRET}@minio/abc")
    assert SECRET not in str(told.value)


def test_who_uses_no_bucket_does_not_load_the_library() -> None:
    code = (
        "import sys, likeness.cli.running, likeness.transport.place, blocks;"
        "sys.exit('boto3' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_vault_in_the_data_stores_own_bucket_folder_is_no_second_place(
    s3: S3Server, tmp_path: Path
) -> None:
    bucket = s3.bucket()
    store, inside, beside = (s3.transport(bucket, each) for each in ("ads", "ads/in it", "vault"))
    other = LocalTransport(tmp_path)
    for vault in (store, inside, s3.transport(bucket)):
        with pytest.raises(NoVault):
            require_second_place(store, vault)
    for one, two in ((store, beside), (store, other), (other, store)):
        require_second_place(one, two)
    assert not s3.client().list_objects_v2(Bucket=bucket).get("Contents")
    assert not list(other.entries(""))
