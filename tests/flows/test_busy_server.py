"""A Prefect server whose database is locked answers 503, and is asked again until it is free."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.request import Request, urlopen

import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from blocks import Site
from blocks.about_prefect import DEFAULTS
from tests.flows.scene import Scene

pytestmark = [pytest.mark.prefect, pytest.mark.lab]
PREFECT_ALONE = 5
"""So often Prefect tries again when it is told nothing."""


@contextmanager
def locked_for(refusals: int, api: str) -> Generator[tuple[str, list[str]], None, None]:
    """In front of the real server: it refuses so many requests, then all pass; what it refused."""
    refused: list[str] = []

    class InFront(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if len(refused) < refusals:
                refused.append(self.path)
                self.send_response(503)
                self.send_header("Retry-After", "0")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            address = api.removesuffix("/api") + self.path
            with urlopen(Request(address, headers={"Accept": "application/json"})) as answer:
                body = answer.read()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # its name there
            del format, args

    with ThreadingHTTPServer(("127.0.0.1", 0), InFront) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/api", refused
        finally:
            server.shutdown()
            thread.join()


def test_a_locked_database_is_waited_for_longer_than_prefect_alone_would(
    new_site: Callable[..., Scene],
) -> None:
    site = new_site({"web": [1 << 20]})
    ours = int(DEFAULTS["PREFECT_CLIENT_MAX_RETRIES"])
    # It asks twice: which version answers, and for the block.
    refusals, api = 2 * (PREFECT_ALONE + 1) + 1, str(PREFECT_API_URL.value())

    with (
        locked_for(refusals, api) as (busy, refused),
        temporary_settings({PREFECT_API_URL: busy, PREFECT_CLIENT_MAX_RETRIES: ours}),
    ):
        assert Site.named(site.name).installation == site.site.installation
        assert len(refused) == refusals
    with (
        locked_for(refusals, api) as (busy, _),
        temporary_settings({PREFECT_API_URL: busy, PREFECT_CLIENT_MAX_RETRIES: PREFECT_ALONE}),
        pytest.raises(Exception, match="503"),
    ):
        Site.named(site.name)
