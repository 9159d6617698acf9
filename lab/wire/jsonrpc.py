"""JSON-RPC 1.0 and 2.0 as the server speaks them."""

import json
from dataclasses import dataclass
from typing import Any

from lab.failures import XapiFailure
from lab.wire.values import Value
from lab.wire.xmlrpc import Malformed


@dataclass(frozen=True)
class JsonCall:
    """One call; `version` is 1 or 2, `id` goes back unchanged."""

    method: str
    parameters: list[Value]
    id: int | str
    version: int


def parse_call(body: bytes) -> JsonCall:
    """Read a call.

    Raises:
        Malformed: Not JSON, no call, or a notification (one without an id), which is refused.
    """
    try:
        raw = json.loads(body)
    except (ValueError, RecursionError) as cause:
        raise Malformed(str(cause)) from cause
    if not isinstance(raw, dict) or not isinstance(raw.get("method"), str):
        raise Malformed("no method")
    call_id, parameters = raw.get("id"), raw.get("params", [])
    if isinstance(call_id, bool) or not isinstance(call_id, int | str):
        raise Malformed("no id")
    if not isinstance(parameters, list):
        raise Malformed("params must be an array")
    return JsonCall(raw["method"], parameters, call_id, 2 if raw.get("jsonrpc") == "2.0" else 1)


def _dump(answer: dict[str, Any]) -> bytes:
    return json.dumps(answer, separators=(",", ":")).encode()


def success(call: JsonCall, value: Value) -> bytes:
    """Answer a call that worked."""
    result = "" if value is None else value
    if call.version == 2:
        return _dump({"jsonrpc": "2.0", "result": result, "id": call.id})
    return _dump({"result": result, "error": None, "id": call.id})


def failure(call: JsonCall, error: XapiFailure) -> bytes:
    """Answer a call that failed."""
    if call.version == 2:
        said = {"code": 1, "message": error.code, "data": error.parameters}
        return _dump({"jsonrpc": "2.0", "error": said, "id": call.id})
    return _dump({"result": None, "error": error.description, "id": call.id})
