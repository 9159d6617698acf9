"""A real S3 server process on loopback."""

import secrets
import subprocess
import sys
import time
import urllib.request
from socket import create_server
from typing import Any

import boto3

from likeness.transport.s3 import S3Address, S3Transport

KEY, SECRET = "likeness-test", "only for the test"


class S3Server:
    """moto's server, which keeps conditional puts, versions and object locks."""

    def __init__(self) -> None:
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
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
            region_name="us-east-1",
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
        )

    def bucket(self, *, locks: bool = False) -> str:
        """A new bucket."""
        name = f"likeness-{secrets.token_hex(6)}"
        self.client().create_bucket(Bucket=name, ObjectLockEnabledForBucket=locks)
        return name

    def transport(self, bucket: str, path: str = "", **settings: Any) -> S3Transport:
        address = S3Address(bucket, path, endpoint=self.endpoint, **settings)
        return S3Transport(address, access_key=KEY, secret_key=SECRET)
