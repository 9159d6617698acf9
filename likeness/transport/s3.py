"""A bucket of S3-compatible object storage: AWS, MinIO, Ceph and their like.

Objects appear whole or not at all, so nothing is ever torn. A new name is made by a conditional
put, which the server refuses where there is one already; moving is copying and deleting, since
object storage has no rename.
"""

import hashlib
import re
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import boto3.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

from likeness.errors import (
    BadInput,
    NameTaken,
    ObjectMissing,
    ShareFull,
    ShareRefused,
    ShareUnreachable,
    StoreMissing,
)
from likeness.transport.base import Entry, Listing, Space

_TAKEN = {"PreconditionFailed", "412", "ConditionalRequestConflict"}
_GONE = {"NoSuchKey", "404", "NotFound"}
_NO_BUCKET = {"NoSuchBucket"}
_REFUSED = {
    *("AccessDenied", "403", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch"),
    *("AllAccessDisabled", "ObjectLocked", "MethodNotAllowed", "InvalidRequest"),
}
_FULL = {"QuotaExceeded", "XMinioStorageFull", "InsufficientStorage", "507", "EntityTooLarge"}
_BEYOND_END = {"InvalidRange", "416"}
_ROOM = 1 << 60
_CONNECTIONS = 16
_PLACE = re.compile(
    r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(?P<path>.*))?\Z", re.IGNORECASE
)
_ENDPOINT = re.compile(r"https?://[^/@?#\s]+/?\Z", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class S3Address:
    """Where a bucket is and how to reach it.

    Attributes:
        bucket: Its name; it must exist.
        path: A prefix inside it, without slashes at its ends; may be empty.
        endpoint: The server, such as ``https://minio.example:9000``; AWS's own if empty.
        region: The region the requests are signed for.
        path_style: Name the bucket in the path instead of the host, as most servers but AWS want.
        ca_file: Certificates to trust instead of the system's, if not empty.
        lock_until: Keep every new object undeletable until then, where the bucket locks objects.
    """

    bucket: str
    path: str = ""
    endpoint: str = ""
    region: str = "us-east-1"
    path_style: bool = True
    ca_file: str = ""
    lock_until: datetime | None = field(default=None)

    @classmethod
    def of(cls, place: str, **settings: Any) -> "S3Address":
        """The address that ``s3://bucket/path`` and further settings give.

        Raises:
            BadInput: It is no such place.
        """
        text = place.strip()
        match = _PLACE.match(text)
        parts = [part for part in (match["path"] or "").split("/") if part] if match else []
        if match is None or match["bucket"] != match["bucket"].lower() or not _are_names(parts):
            shown = "this place" if "@" in text else repr(text)  # it may hold a password
            raise BadInput(f"{shown} is no bucket: write it as s3://bucket/folder")
        return cls(bucket=match["bucket"], path="/".join(parts), **settings)

    def require_usable(self) -> None:
        """See that the server can be such a one.

        Raises:
            BadInput: It cannot; the sentence shows nothing that may be a password.
        """
        if self.endpoint and not _ENDPOINT.match(self.endpoint):
            raise BadInput(
                f"the endpoint of bucket {self.bucket} is no server: write it as"
                " https://server:port, without account or path"
            )
        if not self.region:
            raise BadInput(f"bucket {self.bucket} has no region; us-east-1 fits most servers")
        if self.ca_file and not Path(self.ca_file).is_file():
            raise BadInput(
                f"there is no file {self.ca_file} with the certificates for bucket {self.bucket};"
                " correct its name"
            )


class S3Transport:
    """Objects of a data store as objects of a bucket."""

    def __init__(self, address: S3Address, *, access_key: str, secret_key: str) -> None:
        """Reach a bucket with an account that may put, get, list and, for sweeping, delete.

        Raises:
            BadInput: The address cannot be used, or no account is given.
            StoreMissing: There is no such bucket.
            ShareRefused: The account may not use it.
            ShareUnreachable: Nobody answers.
        """
        address.require_usable()
        if not (access_key and secret_key):  # others than these are never taken
            raise BadInput(
                f"bucket {address.bucket} needs an access key as its account and a secret key as"
                " its password"
            )
        self._address = address
        self._account = (access_key, secret_key)
        self._prefix = f"{address.path}/" if address.path else ""
        self._client = boto3.session.Session().client(  # the default session is for one thread
            "s3",
            endpoint_url=address.endpoint or None,
            region_name=address.region,
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            verify=address.ca_file or None,
            config=Config(
                connect_timeout=10,
                read_timeout=60,
                retries={"mode": "standard", "total_max_attempts": 4},
                max_pool_connections=_CONNECTIONS,
                s3={"addressing_style": "path" if address.path_style else "virtual"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )
        with self._translated(""):
            self._client.list_objects_v2(Bucket=address.bucket, Prefix=self._prefix, MaxKeys=1)

    def __repr__(self) -> str:
        return f"S3Transport({str(self)!r})"

    def __str__(self) -> str:
        return f"s3://{self._address.bucket}/{self._address.path}".rstrip("/")

    def create(self, name: str, parts: Sequence[bytes]) -> None:
        """See `Transport.create`: one conditional put."""
        data = b"".join(parts)
        more: dict[str, Any] = {}
        if self._address.lock_until is not None:
            more = {
                "ObjectLockMode": "COMPLIANCE",
                "ObjectLockRetainUntilDate": self._address.lock_until,
                "ChecksumAlgorithm": "SHA256",
            }
        with self._translated(name):
            try:
                self._client.put_object(
                    Bucket=self._address.bucket,
                    Key=self._key(name),
                    Body=data,
                    IfNoneMatch="*",
                    **more,
                )
            except ClientError as cause:
                if _code(cause) not in _TAKEN:
                    raise
                if not self._was_ours(cause, name, data):
                    raise NameTaken(name) from cause

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """See `Transport.read`."""
        if length == 0:
            self.size(name)
            return b""
        last = "" if length is None else str(offset + length - 1)
        with self._translated(name):
            try:
                answer = self._client.get_object(
                    Bucket=self._address.bucket,
                    Key=self._key(name),
                    **({"Range": f"bytes={offset}-{last}"} if offset or length else {}),
                )
                return bytes(answer["Body"].read())
            except ClientError as cause:
                if _code(cause) in _BEYOND_END:
                    return b""
                raise

    def size(self, name: str) -> int:
        """See `Transport.size`."""
        with self._translated(name):
            return int(
                self._client.head_object(Bucket=self._address.bucket, Key=self._key(name))[
                    "ContentLength"
                ]
            )

    def entries(self, folder: str, *, deep: bool = True) -> Iterator[Entry]:
        """See `Transport.entries`."""
        cut = len(self._prefix)
        with self._translated(folder):
            for page in self._pages(folder, deep=deep):
                for each in page.get("Contents", ()):
                    yield Entry(each["Key"][cut:], int(each["Size"]))

    def folders(self, folder: str) -> list[str]:
        """See `Transport.folders`."""
        with self._translated(folder):
            return [
                each["Prefix"].rstrip("/").rpartition("/")[2]
                for page in self._pages(folder, deep=False)
                for each in page.get("CommonPrefixes", ())
            ]

    def listing(self, folder: str) -> Listing:
        """See `Transport.listing`."""
        cut, files, folders = len(self._prefix), [], []
        with self._translated(folder):
            for page in self._pages(folder, deep=False):
                for each in page.get("Contents", ()):
                    files.append(Entry(each["Key"][cut:], int(each["Size"])))
                for each in page.get("CommonPrefixes", ()):
                    folders.append(each["Prefix"].rstrip("/").rpartition("/")[2])
        return Listing(tuple(files), tuple(folders))

    def rename(self, name: str, new_name: str) -> None:
        """See `Transport.rename`: a copy at the server, then the old name goes."""
        if self._has(new_name):
            self.size(name)
            raise NameTaken(new_name)
        with self._translated(name):
            self._client.copy_object(
                Bucket=self._address.bucket,
                Key=self._key(new_name),
                CopySource={"Bucket": self._address.bucket, "Key": self._key(name)},
            )
        self.delete(name)

    def delete(self, name: str) -> None:
        """See `Transport.delete`; in a versioned bucket an older version stays for its time."""
        with self._translated(name):
            self._client.delete_object(Bucket=self._address.bucket, Key=self._key(name))

    def delete_folder(self, folder: str) -> None:
        """See `Transport.delete_folder`: a folder is only the beginning of names."""

    def space(self) -> Space:
        """See `Transport.space`: a bucket does not say, and ends with a bill, not with a wall."""
        return Space(total_bytes=_ROOM, free_bytes=_ROOM)

    def keep_until(self, name: str, until: datetime) -> None:
        """Let nobody delete an object before then; a time is only ever put off.

        Raises:
            ShareRefused: The bucket does not lock objects, or the account may not.
            ObjectMissing: There is no such object.
        """
        with self._translated(name):
            self._client.put_object_retention(
                Bucket=self._address.bucket,
                Key=self._key(name),
                Retention={"Mode": "COMPLIANCE", "RetainUntilDate": until},
            )

    def again(self) -> AbstractContextManager["S3Transport"]:
        """See `Transport.again`."""
        access_key, secret_key = self._account
        return closing(S3Transport(self._address, access_key=access_key, secret_key=secret_key))

    def close(self) -> None:
        """See `Transport.close`."""
        self._client.close()

    def _key(self, name: str) -> str:
        if name.startswith("/") or ".." in name.split("/"):
            raise ShareRefused(f"{name!r} is no name inside a data store")
        return self._prefix + name

    def _pages(self, folder: str, *, deep: bool) -> Iterator[dict[str, Any]]:
        prefix = self._prefix + (f"{folder}/" if folder else "")
        more = {} if deep else {"Delimiter": "/"}
        pages = self._client.get_paginator("list_objects_v2")
        yield from pages.paginate(Bucket=self._address.bucket, Prefix=prefix, **more)

    def _has(self, name: str) -> bool:
        try:
            self.size(name)
        except ObjectMissing:
            return False
        return True

    def _was_ours(self, cause: ClientError, name: str, data: bytes) -> bool:
        """Whether the object in our way is our own, put by an attempt whose answer was lost."""
        tries = cause.response.get("ResponseMetadata", {}).get("RetryAttempts", 0)
        if not tries or self.size(name) != len(data):
            return False
        return hashlib.sha256(self.read(name)).digest() == hashlib.sha256(data).digest()

    @contextmanager
    def _translated(self, name: str) -> Generator[None, None, None]:
        try:
            yield
        except ClientError as cause:
            raise self._error(cause, name) from cause
        except ParamValidationError as cause:
            raise BadInput(f"{self} cannot be asked for {name!r}: {cause}") from cause
        except (BotoCoreError, OSError) as cause:
            raise ShareUnreachable(f"{self} does not answer: {cause}") from cause

    def _error(self, cause: ClientError, name: str) -> Exception:
        code = _code(cause)
        if code in _NO_BUCKET or (code in _GONE and not name):
            return StoreMissing(
                f"there is no bucket {self._address.bucket}; make it, or correct its name"
            )
        if code in _GONE:
            return ObjectMissing(name)
        if code in _TAKEN:
            return NameTaken(name)
        if code in _FULL:
            return ShareFull(f"{self} has no room left for {name}; make room, then run again")
        if code in _REFUSED:
            return ShareRefused(
                f"{self} refuses {name or 'to be listed'}: {_words(cause)}; see the account's"
                " rights and the bucket's locks"
            )
        return ShareUnreachable(f"{self} could not serve {name}: {_words(cause)}")


def _are_names(parts: Sequence[str]) -> bool:
    return not any(part in (".", "..") or not part.isprintable() for part in parts)


def _code(cause: ClientError) -> str:
    return str(cause.response.get("Error", {}).get("Code", ""))


def _words(cause: ClientError) -> str:
    error = cause.response.get("Error", {})
    return f"{error.get('Code', '?')}, {error.get('Message', 'without a reason')}"
