"""The server's types: their null values, and how a caller's value becomes one of them.

A value is a `str`, `int`, `float`, `bool`, `Date`, `list` or `dict`; nothing else is ever stored.
Its Python type alone decides how it is written, so whoever stores one first brings it into form.
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeAlias

from lab.failures import XapiFailure

Value: TypeAlias = Any

NULL = "OpaqueRef:NULL"
INT_LIMIT = 1 << 63

_SET = re.compile(r"set\((.+)\)\Z")
_MAP = re.compile(r"map\(([^,]+),(.+)\)\Z")
_OPTION = re.compile(r"option\((.+)\)\Z")
_STAMP = re.compile(r"(\d{4})-?(\d\d)-?(\d\d)T(\d\d):?(\d\d):?(\d\d)(?:\.\d+)?Z?\Z")


class Date(str):
    """A moment in UTC, as text such as `20260718T13:15:49Z`."""

    __slots__ = ()


class Int32(int):
    """A number that XML-RPC carries as `<i4>`; all other numbers travel as bare text."""


EPOCH = Date("19700101T00:00:00Z")


def date_of(moment: datetime) -> Date:
    """Write an aware moment the server's way."""
    return Date(moment.astimezone(UTC).strftime("%Y%m%dT%H:%M:%SZ"))


def is_null(ref: str) -> bool:
    """Say whether a reference points to nothing; old hosts return an empty text."""
    return ref in ("", NULL)


def null_value(type_name: str, enums: Mapping[str, tuple[str, ...]]) -> Value:
    """What a field of this type holds when nobody ever set it."""
    simple: dict[str, Value] = {"int": 0, "float": 0.0, "bool": False, "datetime": EPOCH}
    if type_name in simple:
        return simple[type_name]
    if type_name.startswith("ref "):
        return NULL
    if type_name.startswith("set("):
        return []
    if type_name.startswith(("map(", "record ")):
        return {}
    if type_name.startswith("enum "):
        return enums.get(type_name[5:], ("",))[0]
    return ""


def coerce(value: Value, type_name: str, name: str, enums: Mapping[str, tuple[str, ...]]) -> Value:
    """Bring a caller's value into form.

    Args:
        value: As parsed from XML-RPC or JSON.
        type_name: Such as `set(ref VDI)`.
        name: What to blame when it does not fit.
        enums: Allowed values by the enum's name.

    Raises:
        XapiFailure: FIELD_TYPE_ERROR [name]; INVALID_VALUE [name, value] for half a character.
    """
    try:
        return _coerce(value, type_name, enums)
    except UnicodeEncodeError as cause:
        shown = str(cause.object).encode(errors="replace").decode()
        raise XapiFailure("INVALID_VALUE", name, shown) from cause
    except (ValueError, TypeError) as cause:
        raise XapiFailure("FIELD_TYPE_ERROR", name) from cause


def _coerce(value: Value, type_name: str, enums: Mapping[str, tuple[str, ...]]) -> Value:
    if type_name in _SIMPLE:
        return _SIMPLE[type_name](value)
    if found := _SET.match(type_name):
        return [_coerce(item, found[1], enums) for item in _need(value, list)]
    if found := _MAP.match(type_name):
        pairs = _need(value, dict).items()
        return {_coerce(k, found[1], enums): _coerce(v, found[2], enums) for k, v in pairs}
    if found := _OPTION.match(type_name):
        return None if value is None else _coerce(value, found[1], enums)
    if type_name.startswith("record "):
        return _need(value, dict)
    if type_name.startswith("enum "):
        return _enum(value, enums.get(type_name[5:], ()))
    return _text(value)


def _need(value: Value, kind: type) -> Any:
    # An empty array and an empty struct look alike in some clients' languages.
    if isinstance(value, list | dict) and not value:
        return kind()
    if not isinstance(value, kind):
        raise TypeError(value)
    return value


def _text(value: Value) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    value.encode()  # JSON can name half a character; no such text can be sent on
    return str(value)


def _enum(value: Value, allowed: tuple[str, ...]) -> str:
    by_lower_case = {text.lower(): text for text in allowed}
    try:
        return by_lower_case[_text(value).lower()]
    except KeyError as cause:
        raise ValueError(value) from cause


def _int(value: Value) -> int:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise TypeError(value)
    if isinstance(value, float) and not value.is_integer():
        raise ValueError(value)
    number = int(value)
    if not -INT_LIMIT <= number < INT_LIMIT:
        raise ValueError(value)
    return number


def _float(value: Value) -> float:
    if isinstance(value, bool):
        raise TypeError(value)
    return float(value)


def _bool(value: Value) -> bool:
    if not isinstance(value, bool):
        raise TypeError(value)
    return value


def _date(value: Value) -> Date:
    found = _STAMP.match(_text(value))
    if not found:
        raise ValueError(value)
    year, month, day, hour, minute, second = found.groups()
    return Date(f"{year}{month}{day}T{hour}:{minute}:{second}Z")


_SIMPLE: dict[str, Callable[[Value], Value]] = {
    "string": _text,
    "secret string": _text,
    "int": _int,
    "float": _float,
    "bool": _bool,
    "datetime": _date,
}
