"""The control interface: what a guest or a saboteur does, and what was counted.

Every request carries the token in the header `x-lab-token`; answers are JSON.

| request | what it does |
| --- | --- |
| `GET /counters` | everything counted, see `Pool.counters` |
| `GET /calls[?method=M]` | the calls so far |
| `POST /write?vm=&disk=&offset=` | the guest writes the body |
| `GET /read?vm=&disk=&offset=&length=` | what the guest sees |
| `GET /faults`, `DELETE /faults` | what is set to go wrong; forget it |
| `POST /faults` | set a fault: a JSON object with `kind` and the parameters of `Faults.<kind>` |
| | (what `Faults.fail_export` calls `kind` is `how` here; `guests` takes `GuestFaults`) |
| `POST /sessions/expire` | end all sessions |
| `POST /change-log?vm=&disk=&noticed=` | damage a disk's change log, see `Pool.lose_change_log` |
| `POST /accounts` | let somebody with a lesser role log in: a JSON object for `Pool.add_account` |
| `POST /coordinator?address=` | let logins answer HOST_IS_SLAVE; empty address: no longer |
"""

import hmac
import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from lab.failures import XapiFailure
from lab.parts.guests import GuestFaults
from lab.pool import Pool
from lab.web.connection import Connection, Request
from lab.web.server import Routes

STEP_BYTES = 1 << 20
TOKEN_HEADER = "x-lab-token"  # the name of a header
FAULT_KINDS = ("fail", "hang", "fail_export", "hold_vbd", "guests")

Action = Callable[[Connection, Request], Any]


class ControlInterface:
    """Answers control requests for one pool."""

    def __init__(self, pool: Pool, token: str) -> None:
        self._pool = pool
        self._token = token

    def add_to(self, routes: Routes) -> None:
        """Take the paths of the control interface."""
        actions: dict[tuple[str, str], Action] = {
            ("GET", "/counters"): lambda *_: self._pool.counters(),
            ("GET", "/calls"): self._calls,
            ("POST", "/write"): self._write,
            ("GET", "/read"): self._read,
            ("GET", "/faults"): lambda *_: self._pool.faults.listing(),
            ("DELETE", "/faults"): self._clear_faults,
            ("POST", "/faults"): self._set_fault,
            ("POST", "/sessions/expire"): lambda *_: {"ended": self._pool.sessions.end_all()},
            ("POST", "/change-log"): self._lose_change_log,
            ("POST", "/coordinator"): self._move_coordinator,
            ("POST", "/accounts"): self._add_account,
        }
        for (method, path), action in actions.items():
            routes.add(method, path, self._guarded(action))

    def _guarded(self, action: Action) -> Callable[[Connection, Request], bool]:
        def handle(connection: Connection, request: Request) -> bool:
            if not hmac.compare_digest(request.headers.get(TOKEN_HEADER, ""), self._token):
                return _answer(connection, request, 401, {"error": "the token is wrong"})
            try:
                value = action(connection, request)
            except (LookupError, ValueError, TypeError, XapiFailure) as error:
                return _answer(connection, request, 400, {"error": str(error)})
            if isinstance(value, bytes):
                kind = {"content-type": "application/octet-stream"}
                connection.answer(request, 200, value, kind)
                return True
            return _answer(connection, request, 200, value)

        return handle

    def _calls(self, connection: Connection, request: Request) -> Any:
        del connection
        method = request.query.get("method", "")
        return [asdict(entry) for entry in self._pool.journal.entries(method)]

    def _write(self, connection: Connection, request: Request) -> Any:
        query, length = request.query, request.content_length or 0
        disk = self._pool.disk_of(query.get("vm", ""), int(query.get("disk", "0")))
        offset, done = int(query.get("offset", "0")), 0
        if offset + length > disk.size:
            raise ValueError(f"{length} bytes at {offset} do not fit a disk of {disk.size}")
        while done < length:
            data = connection.read(min(STEP_BYTES, length - done))
            if not data:
                break
            disk.write(offset + done, data)
            done += len(data)
        return {"written": done}

    def _read(self, connection: Connection, request: Request) -> bytes:
        del connection
        query = request.query
        disk = self._pool.disk_of(query.get("vm", ""), int(query.get("disk", "0")))
        offset = min(int(query.get("offset", "0")), disk.size)
        length = min(int(query.get("length", disk.size)), disk.size - offset)
        return disk.read(offset, length)

    def _set_fault(self, connection: Connection, request: Request) -> Any:
        given = json.loads(connection.read(request.content_length or 0))
        kind = given.pop("kind", "")
        if kind not in FAULT_KINDS:
            raise ValueError(f"kind must be one of {', '.join(FAULT_KINDS)}")
        positional = given.pop("parameters", [])
        if kind == "fail":
            self._pool.faults.fail(given.pop("method"), given.pop("code"), *positional, **given)
        elif kind == "guests":
            self._pool.guests.faults = GuestFaults(**given)
        elif kind == "fail_export":
            self._pool.faults.fail_export(given.pop("how"), **given)
        else:
            getattr(self._pool.faults, kind)(**given)
        return self._pool.faults.listing()

    def _clear_faults(self, connection: Connection, request: Request) -> None:
        del connection, request
        self._pool.faults.clear()
        self._pool.guests.faults = GuestFaults()

    def _lose_change_log(self, connection: Connection, request: Request) -> Any:
        del connection
        query = request.query
        noticed = query.get("noticed", "true") == "true"
        self._pool.lose_change_log(
            query.get("vm", ""), int(query.get("disk", "0")), noticed=noticed
        )
        return {}

    def _add_account(self, connection: Connection, request: Request) -> Any:
        given = json.loads(connection.read(request.content_length or 0))
        return {"subject": self._pool.add_account(**given)}

    def _move_coordinator(self, connection: Connection, request: Request) -> Any:
        del connection
        self._pool.hosts.set_coordinator(address=request.query.get("address", ""))
        return {}


def _answer(connection: Connection, request: Request, status: int, value: Any) -> bool:
    body = json.dumps(value).encode()
    headers = {"content-type": "application/json"}
    if status != 200:
        headers["connection"] = "close"
    connection.answer(request, status, body, headers)
    return status == 200
