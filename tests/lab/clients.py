"""Clients that know nothing of the lab: the published Python library, and JSON-RPC by hand."""

import json
import threading
import time
import urllib.request
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
import XenAPI

from lab.serving import LabServer


class Refused(Exception):
    """A JSON-RPC call failed; `args` is the code and its parameters."""


class JsonClient:
    """A minimal JSON-RPC 2.0 client that keeps its connection."""

    def __init__(self, url: str) -> None:
        self._parts = urlsplit(url)
        self._local = threading.local()
        self._id = 0
        self.session = ""

    def log_in(self, username: str, password: str) -> None:
        self.session = self.raw("session.login_with_password", username, password, "1.0", "json")

    def raw(self, method: str, *parameters: Any) -> Any:
        self._id += 1
        call = {"jsonrpc": "2.0", "method": method, "params": list(parameters), "id": self._id}
        answer = json.loads(self.post("/jsonrpc", json.dumps(call).encode()))
        assert answer["id"] == self._id
        if "error" in answer:
            raise Refused(answer["error"]["message"], *answer["error"]["data"])
        return answer["result"]

    def post(self, path: str, body: bytes) -> bytes:
        connection = HTTPConnection(self._parts.hostname or "", self._parts.port, timeout=60)
        try:
            connection.request("POST", path, body, {"content-type": "application/json"})
            return connection.getresponse().read()
        finally:
            connection.close()

    def __call__(self, method: str, *parameters: Any) -> Any:
        return self.raw(method, self.session, *parameters)


class JsonApi:
    """JSON-RPC under the names and with the failures of the published library.

    Numbers come back as text, as that library sees them, so that one test can speak either.
    """

    def __init__(self, client: JsonClient, name: str = "") -> None:
        self._client = client
        self._name = name

    def __getattr__(self, part: str) -> "JsonApi":
        return JsonApi(self._client, f"{self._name}.{part}".lstrip("."))

    def __call__(self, *parameters: Any) -> Any:
        try:
            return as_text(self._client(self._name, *parameters))
        except Refused as refused:
            raise XenAPI.Failure(list(refused.args)) from refused


def as_text(value: Any) -> Any:
    """Write the numbers inside a value as text."""
    if isinstance(value, dict):
        return {key: as_text(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_text(item) for item in value]
    return str(value) if type(value) is int else value


OPEN: list[XenAPI.Session] = []


def open_session(url: str) -> XenAPI.Session:
    """Make a session of the published library that `close_sessions` hangs up."""
    session = XenAPI.Session(url, ignore_ssl=True)
    OPEN.append(session)
    return session


def close_sessions() -> None:
    """Hang up, as the library itself never does."""
    while OPEN:
        OPEN.pop()("close")()


class Xen:
    """The published library, logged in, with the few steps every test needs.

    With the protocol `json` the calls go by JSON-RPC instead, under the same session.
    """

    def __init__(self, lab: LabServer, protocol: str = "xml") -> None:
        self.lab = lab
        self.session = open_session(lab.url)
        self.session.xenapi.login_with_password(lab.username, lab.password, "1.0", "tests")
        self.api: Any = self.session.xenapi
        if protocol == "json":
            client = JsonClient(lab.url)
            client.session = self.token
            self.api = JsonApi(client)

    @property
    def token(self) -> str:
        return str(self.session._session)

    def vm(self, name: str) -> str:
        found = self.api.VM.get_by_name_label(name)
        assert len(found) == 1
        return str(found[0])

    def disks(self, vm: str) -> list[str]:
        vbds = [self.api.VBD.get_record(vbd) for vbd in self.api.VM.get_VBDs(vm)]
        drives = sorted((v for v in vbds if v["type"] == "Disk"), key=lambda v: v["userdevice"])
        return [v["VDI"] for v in drives]

    def wait(self, task: str, seconds: float = 60.0) -> dict[str, Any]:
        end = time.monotonic() + seconds
        while True:
            record: dict[str, Any] = self.api.task.get_record(task)
            if record["status"] not in ("pending", "cancelling"):
                return record
            assert time.monotonic() < end, f"the task {record['name_label']} does not end"
            time.sleep(0.01)

    def events(self, classes: list[str], token: str = "", timeout: float = 5.0) -> Any:
        return getattr(self.api.event, "from")(classes, token, timeout)

    def new_disk(self, size: int = 4 << 20, **fields: Any) -> str:
        sr = self.api.pool.get_default_SR(self.api.pool.get_all()[0])
        record = {
            "name_label": "disk",
            "SR": sr,
            "virtual_size": str(size),
            "type": "user",
            "sharable": False,
            "read_only": False,
            "other_config": {},
        }
        return str(self.api.VDI.create(record | fields))

    def new_vbd(self, vm: str, vdi: str, **fields: Any) -> str:
        record = {
            "VM": vm,
            "VDI": vdi,
            "userdevice": "autodetect",
            "bootable": False,
            "mode": "RW",
            "type": "Disk",
            "empty": False,
            "other_config": {},
            "qos_algorithm_type": "",
            "qos_algorithm_params": {},
            "unpluggable": True,
        }
        return str(self.api.VBD.create(record | fields))

    # -- disk data -------------------------------------------------------------------------------

    def connection(self) -> HTTPConnection:
        parts = urlsplit(self.lab.url)
        if parts.scheme == "https":
            import ssl

            unverified = ssl._create_unverified_context()
            return HTTPSConnection(parts.hostname or "", parts.port, context=unverified)
        return HTTPConnection(parts.hostname or "", parts.port, timeout=60)

    def get(self, vdi: str, **query: str) -> tuple[HTTPResponse, bytes]:
        connection = self.connection()
        asked = urlencode({"vdi": vdi, "session_id": self.token, **query})
        connection.request("GET", f"/export_raw_vdi?{asked}")
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer, body

    def export(self, vdi: str, **query: str) -> bytes:
        task = self.api.task.create("export", "")
        answer, body = self.get(vdi, task_id=task, **query)
        assert answer.status == 200
        record = self.wait(task)
        assert record["status"] == "success", record["error_info"]
        return body

    def put(self, vdi: str, body: bytes, **query: str) -> dict[str, Any]:
        task = self.api.task.create("import", "")
        connection = self.connection()
        asked = urlencode({"vdi": vdi, "session_id": self.token, "task_id": task, **query})
        connection.request("PUT", f"/import_raw_vdi?{asked}", body)
        answer = connection.getresponse()
        assert answer.status == 200
        answer.read()
        connection.close()
        return self.wait(task)

    def until_free(self, vdi: str) -> None:
        end = time.monotonic() + 30
        while self.api.VDI.get_VBDs(vdi):
            assert time.monotonic() < end, "dom0 does not let go of the disk"
            time.sleep(0.01)


class Both:
    """One way to call by name, whatever the protocol, with the failure's parts in `failure`."""

    def __init__(self, lab: LabServer, protocol: str) -> None:
        self.xen = Xen(lab)
        self.json = JsonClient(lab.url)
        self.json.session = self.xen.token
        self.protocol = protocol

    def __call__(self, method: str, *parameters: Any) -> Any:
        if self.protocol == "json":
            return self.json(method, *parameters)
        function = self.xen.api
        for part in method.split("."):
            function = getattr(function, part)
        return function(*[str(p) if type(p) is int else p for p in parameters])

    def failure(self, method: str, *parameters: Any) -> list[str]:
        with pytest.raises((XenAPI.Failure, Refused)) as refused:
            self(method, *parameters)
        error = refused.value
        return list(error.details if isinstance(error, XenAPI.Failure) else error.args)

    def task(self, method: str, *parameters: Any) -> str:
        """Run the asynchronous form; returns what stands in the result's `<value>`."""
        task = self(f"Async.{method}", *parameters)
        token, status = "", "pending"
        while status == "pending":
            answer = self("event.from", [f"task/{task}"], token, 10.0)
            token = answer["token"]
            status = ([e["snapshot"]["status"] for e in answer["events"]] or [status])[-1]
        record = self("task.get_record", task)
        assert record["status"] == "success", record["error_info"]
        self("task.destroy", task)
        return str(record["result"]).removeprefix("<value>").removesuffix("</value>")

    def patiently(self, method: str, *parameters: Any) -> None:
        """Repeat while the disk is in use, as clients must."""
        end = time.monotonic() + 30
        while True:
            try:
                self(method, *parameters)
            except (XenAPI.Failure, Refused) as error:
                if "VDI_IN_USE" not in str(error) or time.monotonic() > end:
                    raise
                time.sleep(0.02)
            else:
                return


def control(lab: LabServer, method: str, path: str, body: bytes | None = None) -> Any:
    request = urllib.request.Request(lab.control_url + path, data=body, method=method)
    request.add_header("x-lab-token", lab.control_token)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())
