"""One S3 server for all of these tests."""

from collections.abc import Iterator

import pytest

from tests.s3.server import S3Server


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    server = S3Server()
    try:
        server.start()
        yield server
    finally:
        server.stop()
