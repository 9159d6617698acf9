"""XML-RPC as the server writes it: no white space, texts and numbers in bare `<value>` elements."""

import re
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

from lab.failures import XapiFailure
from lab.wire.values import Date, Int32, Value

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff\ud800-\udfff]")
_HEAD = '<?xml version="1.0"?>'


class Malformed(Exception):
    """The body is no call; the server answers 500 with an HTML page."""


def escape(text: str) -> str:
    """Make a text safe inside an element; control characters are dropped."""
    clean = _CONTROL.sub("", text)
    clean = clean.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return clean.replace('"', "&quot;")


def encode(value: Value) -> str:
    """Write one value as a `<value>` element."""
    if isinstance(value, bool):
        return f"<value><boolean>{int(value)}</boolean></value>"
    if isinstance(value, Date):
        return f"<value><dateTime.iso8601>{value}</dateTime.iso8601></value>"
    if isinstance(value, Int32):
        return f"<value><i4>{int(value)}</i4></value>"
    if isinstance(value, float):
        return f"<value><double>{value!r}</double></value>"
    if isinstance(value, list):
        inside = "".join(map(encode, value))
        return f"<value><array><data>{inside}</data></array></value>"
    if isinstance(value, dict):
        inside = "".join(
            f"<member><name>{escape(str(name))}</name>{encode(member)}</member>"
            for name, member in value.items()
        )
        return f"<value><struct>{inside}</struct></value>"
    return "<value></value>" if value is None else f"<value>{escape(str(value))}</value>"


def _answer(value: Value) -> bytes:
    body = f"<methodResponse><params><param>{encode(value)}</param></params></methodResponse>"
    return (_HEAD + body).encode()


def success(value: Value) -> bytes:
    """Answer a call that worked."""
    return _answer({"Status": "Success", "Value": "" if value is None else value})


def bare(value: Value) -> bytes:
    """Answer `system.listMethods`, which alone comes without the status struct."""
    return _answer(value)


def failure(error: XapiFailure) -> bytes:
    """Answer a call that failed."""
    return _answer({"Status": "Failure", "ErrorDescription": error.description})


def parse_call(body: bytes) -> tuple[str, list[Value]]:
    """Read a call.

    Returns:
        The method's name and its parameters, the session first.

    Raises:
        Malformed: The body is not an XML-RPC call.
    """
    try:
        root = ElementTree.fromstring(body)  # expat expands no external entities
        name = root.findtext("methodName")
        if root.tag != "methodCall" or name is None:
            raise Malformed("no methodCall")
        return name.strip(), [decode(value) for value in root.findall("params/param/value")]
    except (ElementTree.ParseError, ValueError, LookupError) as cause:
        raise Malformed(str(cause)) from cause


def decode(element: ElementTree.Element) -> Value:
    """Read one `<value>` element."""
    if len(element) == 0:
        return element.text or ""
    typed = element[0]
    return _READERS[typed.tag](typed)


def _text(element: ElementTree.Element) -> str:
    return element.text or ""


def _number(element: ElementTree.Element) -> int:
    return int(_text(element))


def _boolean(element: ElementTree.Element) -> bool:
    return {"1": True, "0": False, "true": True, "false": False}[_text(element).strip()]


def _array(element: ElementTree.Element) -> list[Value]:
    return [decode(value) for value in element.findall("data/value")]


def _struct(element: ElementTree.Element) -> dict[str, Value]:
    members: dict[str, Value] = {}
    for member in element.findall("member"):
        value = member.find("value")
        if value is None:
            raise ValueError("a member without a value")
        members[member.findtext("name") or ""] = decode(value)
    return members


_READERS: dict[str, Callable[[ElementTree.Element], Any]] = {
    "string": _text,
    "int": _number,
    "i4": _number,
    "i8": _number,
    "double": lambda element: float(_text(element)),
    "boolean": _boolean,
    "dateTime.iso8601": lambda element: Date(_text(element).strip()),
    "base64": _text,
    "nil": lambda _: "",
    "array": _array,
    "struct": _struct,
}
