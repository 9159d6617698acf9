"""Another pool, as one pool sees it over the network: its API and its handlers for data."""

import json
import re
import ssl
import time
from collections.abc import Iterable
from contextlib import closing
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from itertools import count
from typing import IO, cast
from urllib.parse import urlencode, urlsplit

from lab.failures import XapiFailure
from lab.wire.values import Value

TIMEOUT_SECONDS = 600.0
POLL_SECONDS = 0.02
_REFERENCE = re.compile(r"OpaqueRef:[^<]+")
WEB_SCHEMES = ("http", "https")


def connect(url: str) -> HTTPConnection:
    """Open a connection; whoever answers is believed, as hosts do that know no certificates.

    Raises:
        ValueError: No address of the web.
    """
    parts = urlsplit(url)
    if parts.scheme not in WEB_SCHEMES or not parts.hostname:
        raise ValueError(f"{url} is no address of the web")
    if parts.scheme == "http":
        return HTTPConnection(parts.hostname, parts.port, timeout=TIMEOUT_SECONDS)
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    return HTTPSConnection(parts.hostname, parts.port, timeout=TIMEOUT_SECONDS, context=trusting)


def fetch(url: str) -> IO[bytes]:
    """Open what lies at an address.

    Raises:
        XapiFailure: IMPORT_ERROR.
    """
    parts = urlsplit(url)
    try:
        connection = connect(url)
        connection.request("GET", f"{parts.path or '/'}?{parts.query}")
        answer = connection.getresponse()
    except (OSError, HTTPException, ValueError) as cause:
        raise XapiFailure("IMPORT_ERROR", str(cause)) from cause
    if answer.status != 200:
        connection.close()
        raise XapiFailure("IMPORT_ERROR", f"{url} answers {answer.status}")
    return cast("IO[bytes]", answer)


class RemotePool:
    """A session of another pool."""

    def __init__(self, url: str, session: str) -> None:
        self._url = url
        self._session = session
        self._numbers = count(1)

    def call(self, method: str, *parameters: Value) -> Value:
        """Call the other pool.

        Raises:
            XapiFailure: What it fails with, or VM_MIGRATE_CONTACT_REMOTE_SERVICE_FAILED.
        """
        call = {
            "jsonrpc": "2.0",
            "id": next(self._numbers),
            "method": method,
            "params": [self._session, *parameters],
        }
        try:
            with closing(connect(self._url)) as connection:
                connection.request("POST", "/jsonrpc", json.dumps(call))
                answer = json.loads(connection.getresponse().read())
        except (OSError, HTTPException, ValueError) as cause:
            raise XapiFailure("VM_MIGRATE_CONTACT_REMOTE_SERVICE_FAILED") from cause
        if "error" in answer:
            raise XapiFailure(answer["error"]["message"], *answer["error"]["data"])
        return answer["result"]

    def put(self, path: str, parts: Iterable[bytes], length: int, **query: str) -> list[str]:
        """Send a body and wait for the task that takes it.

        Returns:
            The references in the task's result.

        Raises:
            XapiFailure: What the task fails with, or VM_MIGRATE_CONTACT_REMOTE_SERVICE_FAILED.
        """
        task = str(self.call("task.create", path, "from another pool"))
        asked = urlencode({"session_id": self._session, "task_id": task, **query})
        try:
            with closing(connect(self._url)) as connection:
                headers = {"content-length": str(length)}
                connection.request("PUT", f"{path}?{asked}", parts, headers)
                connection.getresponse().read()
        except (OSError, HTTPException, ValueError) as cause:
            # Whoever refuses a body hangs up while it is still sent; the task knows the reason.
            if self.call("task.get_status", task) == "pending":
                raise XapiFailure("VM_MIGRATE_CONTACT_REMOTE_SERVICE_FAILED") from cause
        while (record := self.call("task.get_record", task))["status"] == "pending":
            time.sleep(POLL_SECONDS)
        self.call("task.destroy", task)
        if record["status"] != "success":
            raise XapiFailure(*record["error_info"])
        return _REFERENCE.findall(record["result"])
