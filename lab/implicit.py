"""Messages that follow from the fields alone: getters, setters, records, creation by a struct."""

import re
from collections.abc import Callable

from lab.calls import Call
from lab.facts import Message
from lab.failures import XapiFailure
from lab.wire.values import Value, coerce

Handler = Callable[..., Value]

_WRITES = re.compile(r"(set|add_to|remove_from|add|remove)_(.+)\Z")


def implicit_handler(message: Message, fields: dict[str, str]) -> Handler | None:
    """Find what a message does by its name.

    Args:
        message: The message.
        fields: The types of its class's fields, by name.
    """
    if message.name in ("create", "destroy") and not message.implicit:
        return None
    if message.name in _WHOLE:
        return lambda call, *given: _WHOLE[message.name](call, message, *given)
    if message.name.startswith("get_") and message.name[4:] in fields:
        return _getter(message.class_name, message.name[4:])
    if found := _WRITES.match(message.name):
        wanted = 3 if found[1] == "add_to" and fields.get(found[2], "").startswith("map(") else 2
        if len(message.parameters) == wanted:
            return _writer(message.class_name, found[1], found[2], fields)
    return None


def _getter(class_name: str, field: str) -> Handler:
    return lambda call, ref: call.db.get(class_name, ref, field)


def _writer(class_name: str, verb: str, field: str, fields: dict[str, str]) -> Handler | None:
    kind = fields.get(field, "").split("(")[0]
    if not kind:
        return None
    if verb == "set":
        return lambda call, ref, value: call.db.put(class_name, ref, **{field: value})
    if verb == "add_to" and kind == "map":
        return lambda call, ref, key, value: call.db.add_pair(class_name, ref, field, key, value)
    if verb == "remove_from" and kind == "map":
        return lambda call, ref, key: call.db.drop_pair(class_name, ref, field, key)
    if verb in ("add", "add_to") and kind == "set":
        return lambda call, ref, item: call.db.add_item(class_name, ref, field, item)
    if verb in ("remove", "remove_from") and kind == "set":
        return lambda call, ref, item: call.db.drop_item(class_name, ref, field, item)
    return None


def constructor_fields(call: Call, message: Message, given: dict[str, Value]) -> dict[str, Value]:
    """Take from a struct the fields a constructor knows, in form; others are ignored."""
    facts = call.db.facts
    fields: dict[str, Value] = {}
    for marked in message.constructor or ():
        name = marked.rstrip("*")
        if name in given:
            type_name = facts.classes[message.class_name].fields[name].type
            fields[name] = coerce(given[name], type_name, name, facts.enums)
        elif marked.endswith("*"):
            lost = f'{message.class_name}.create: the field "{name}" is missing'
            raise XapiFailure("INTERNAL_ERROR", lost)
    return fields


def _create(call: Call, message: Message, given: dict[str, Value]) -> str:
    fields = constructor_fields(call, message, given)
    return call.db.create(message.class_name, **fields)


def _destroy(call: Call, message: Message, ref: str) -> None:
    call.db.destroy(message.class_name, ref)


def _get_record(call: Call, message: Message, ref: str) -> Value:
    return call.db.record(message.class_name, ref)


def _get_by_uuid(call: Call, message: Message, uuid: str) -> str:
    return call.db.by_uuid(message.class_name, uuid)


def _get_by_name_label(call: Call, message: Message, label: str) -> Value:
    return call.db.where(message.class_name, name_label=label)


def _get_all(call: Call, message: Message) -> Value:
    return call.db.refs(message.class_name)


def _get_all_records(call: Call, message: Message) -> Value:
    with call.db.lock:
        refs = call.db.refs(message.class_name)
        return {ref: call.db.record(message.class_name, ref) for ref in refs}


_WHOLE: dict[str, Handler] = {
    "create": _create,
    "destroy": _destroy,
    "get_record": _get_record,
    "get_by_uuid": _get_by_uuid,
    "get_by_name_label": _get_by_name_label,
    "get_all": _get_all,
    "get_all_records": _get_all_records,
}
