"""A real S3 server: a process on loopback, or the one that variables name.

LIKENESS_TEST_S3_ENDPOINT, _KEY and _SECRET (AWS_CA_BUNDLE for an authority of its own) run the same
tests against MinIO, Ceph or AWS; the account may make buckets, which are left there.
"""

import os
import secrets
import subprocess
import sys
import time
import urllib.request
from socket import create_server
from typing import Any

import boto3

from likeness.transport.s3 import S3Address, S3Transport

_NAME = "LIKENESS_TEST_S3_"
ELSEWHERE = os.environ.get(f"{_NAME}ENDPOINT", "")
KEY = os.environ.get(f"{_NAME}KEY", "likeness-test")
SECRET = os.environ.get(f"{_NAME}SECRET", "only for the test")
REGION = os.environ.get(f"{_NAME}REGION", "us-east-1")


class S3Server:
    """moto's server, which keeps conditional puts, versions and object locks."""

    def __init__(self, *, alone: bool = False) -> None:
        """One that may be stopped is `alone`: a process of the test's own in any case."""
        self._elsewhere = "" if alone else ELSEWHERE
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return self._elsewhere or f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        if self._elsewhere:
            return
        if not self.port:
            with create_server(("127.0.0.1", 0)) as free:
                self.port = free.getsockname()[1]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"{self.endpoint}/moto-api/", timeout=5).close()
            except OSError:
                assert time.monotonic() < until, "the S3 server does not start"
                time.sleep(0.1)
            else:
                return

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def client(self) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
        )

    def bucket(self, *, locks: bool = False) -> str:
        """A new bucket."""
        name = f"likeness-{secrets.token_hex(6)}"
        self.client().create_bucket(Bucket=name, ObjectLockEnabledForBucket=locks)
        return name

    def transport(self, bucket: str, path: str = "", **settings: Any) -> S3Transport:
        address = S3Address(bucket, path, endpoint=self.endpoint, region=REGION, **settings)
        return S3Transport(address, access_key=KEY, secret_key=SECRET)
