"""Small classes: messages, secrets, consoles, blobs."""

from lab.calls import Call
from lab.registry import message
from lab.wire.values import Value, date_of


@message("message.create")
def create_message(call: Call, name: str, priority: int, cls: str, obj_uuid: str, body: str) -> str:
    """Leave a message about an object that is there."""
    names = {known.lower(): known for known in call.db.facts.classes}
    if cls.lower() in names:
        call.db.by_uuid(names[cls.lower()], obj_uuid)
    return call.db.create(
        "message",
        name=name,
        priority=priority,
        cls=cls,
        obj_uuid=obj_uuid,
        body=body,
        timestamp=date_of(call.pool.settings.now()),
    )


@message("message.destroy", "blob.destroy", "VTPM.destroy")
def destroy(call: Call, ref: str) -> None:
    """Remove an object that nothing depends on."""
    call.db.destroy(call.name.split(".")[0], ref)
    call.pool.blob_contents.pop(ref, None)


@message("message.destroy_many")
def destroy_messages(call: Call, messages: list[str]) -> None:
    """Remove several messages."""
    with call.db.lock:
        for ref in messages:
            call.db.row("message", ref)
        for ref in messages:
            call.db.destroy("message", ref)


@message("message.destroy_all")
def destroy_all_messages(call: Call, filters: dict[str, str]) -> None:
    """Remove the messages a filter names, or all."""
    del filters
    destroy_messages(call, call.db.refs("message"))


def _messages(call: Call, **fields: Value) -> Value:
    with call.db.lock:
        return {r: call.db.record("message", r) for r in call.db.where("message", **fields)}


@message("message.get")
def get_messages(call: Call, cls: str, obj_uuid: str, since: str) -> Value:
    """The messages about one object since a moment."""
    found = _messages(call, cls=cls, obj_uuid=obj_uuid)
    return {ref: record for ref, record in found.items() if record["timestamp"] >= since}


@message("message.get_since")
def get_messages_since(call: Call, since: str) -> Value:
    """All messages since a moment."""
    return {r: rec for r, rec in _messages(call).items() if rec["timestamp"] >= since}


@message("secret.introduce")
def introduce_secret(call: Call, uuid: str, value: str, other_config: dict[str, str]) -> str:
    """Make a secret with a given uuid."""
    return call.db.create("secret", uuid=uuid, value=value, other_config=other_config)
