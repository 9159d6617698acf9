"""Small classes: messages, secrets, consoles, blobs."""

from lab.calls import Call
from lab.registry import message
from lab.wire.values import date_of


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


@message("message.destroy")
def destroy(call: Call, ref: str) -> None:
    """Remove an object that nothing depends on."""
    call.db.destroy(call.name.split(".")[0], ref)
