"""What the server's own data model says: classes, fields, messages, types, relations."""

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from lab.wire.values import Date, Value, null_value


@dataclass(frozen=True)
class Field:
    """One field of a class; `qualifier` is RW, SRO (set by the constructor) or DRO (runtime)."""

    name: str
    type: str
    qualifier: str
    default: Value


@dataclass(frozen=True)
class Parameter:
    """One parameter of a message after the session; `default` counts only when `optional`."""

    name: str
    type: str
    optional: bool
    default: Value


@dataclass(frozen=True)
class Message:
    """One message.

    Attributes:
        open: Callable without a session.
        constructor: Fields of the one struct it takes; a mandatory one ends in `*`.
        declared_errors: Codes the data model declares; a server may raise others too.
        role: The least role that may call it.
    """

    class_name: str
    name: str
    parameters: tuple[Parameter, ...]
    result: str | None
    open: bool
    asynchronous: bool
    removed: bool
    hidden: bool
    implicit: bool
    constructor: tuple[str, ...] | None
    declared_errors: tuple[str, ...]
    role: str

    @property
    def full_name(self) -> str:
        """`Class.message`."""
        return f"{self.class_name}.{self.name}"

    @property
    def required(self) -> int:
        """How many parameters a caller must give after the session."""
        return sum(not parameter.optional for parameter in self.parameters)


@dataclass(frozen=True)
class ClassFacts:
    """One class; `events` says whether its objects show up in `event.from`."""

    name: str
    events: bool
    fields: dict[str, Field]
    messages: dict[str, Message]


@dataclass(frozen=True)
class Relation:
    """Two ends that the server keeps in step: `owner.field` points, `other.other_field` lists."""

    owner: str
    field: str
    other: str
    other_field: str


@dataclass(frozen=True)
class Facts:
    """The whole table."""

    api_version: tuple[int, int]
    classes: dict[str, ClassFacts]
    enums: dict[str, tuple[str, ...]]
    errors: dict[str, tuple[str, ...] | None]
    relations: tuple[Relation, ...]

    def messages(self) -> list[Message]:
        """Every message of every class."""
        return [m for facts in self.classes.values() for m in facts.messages.values()]


@cache
def load_facts() -> Facts:
    """Read the table that ships with the lab, once."""
    raw = json.loads(resources.files("lab").joinpath("facts.json").read_text())
    enums = {name: tuple(values) for name, values in raw["enums"].items()}
    return Facts(
        api_version=(raw["api_version"][0], raw["api_version"][1]),
        classes={name: _class_facts(name, text, enums) for name, text in raw["classes"].items()},
        enums=enums,
        errors={code: None if p is None else tuple(p) for code, p in raw["errors"].items()},
        relations=tuple(Relation(*ends) for ends in raw["relations"]),
    )


def _class_facts(name: str, raw: dict[str, Any], enums: dict[str, tuple[str, ...]]) -> ClassFacts:
    fields = {
        field: Field(field, text["type"], text["qualifier"], _default(text, enums))
        for field, text in raw["fields"].items()
    }
    messages = {
        message: _message(name, message, text, enums) for message, text in raw["messages"].items()
    }
    return ClassFacts(name, raw["events"], fields, messages)


def _message(
    class_name: str, name: str, raw: dict[str, Any], enums: dict[str, tuple[str, ...]]
) -> Message:
    constructor = raw.get("constructor")
    return Message(
        class_name=class_name,
        name=name,
        parameters=tuple(_parameter(text, enums) for text in raw["params"]),
        result=raw["result"],
        open=raw.get("open", False),
        asynchronous=not raw.get("synchronous", False),
        removed=raw.get("removed", False),
        hidden=raw.get("hidden", False),
        implicit=raw.get("implicit", False),
        constructor=None if constructor is None else tuple(constructor),
        declared_errors=tuple(raw.get("errors", ())),
        role=raw.get("role", "read-only"),
    )


def _parameter(raw: list[Any], enums: dict[str, tuple[str, ...]]) -> Parameter:
    optional = len(raw) > 2
    default = _plain(raw[2], raw[1]) if optional else null_value(raw[1], enums)
    return Parameter(raw[0], raw[1], optional, default)


def _default(raw: dict[str, Any], enums: dict[str, tuple[str, ...]]) -> Value:
    if "default" in raw:
        return _plain(raw["default"], raw["type"])
    return null_value(raw["type"], enums)


def _plain(default: Any, type_name: str) -> Value:
    if isinstance(default, dict) and "datetime" in default:
        return Date(default["datetime"].replace("-", ""))
    return float(default) if type_name == "float" else default
