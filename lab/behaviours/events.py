"""event.*: what changed."""

import time

from lab.calls import Call
from lab.registry import message
from lab.wire.values import Value

NEXT_SECONDS = 30.0


def _alive(call: Call) -> None:
    call.pool.sessions.check(call.session)


@message("event.from")
def event_from(call: Call, classes: list[str], token: str, timeout: float) -> Value:
    """Wait for changes after a token."""
    return call.pool.events.wait_for(classes, token, timeout, lambda: _alive(call))


@message("event.inject")
def inject(call: Call, class_name: str, ref: str) -> str:
    """Force an event; returns a token from just before it."""
    return call.pool.events.inject(class_name, ref)


@message("event.get_current_id")
def get_current_id(call: Call) -> int:
    """The running change number."""
    return call.db.generation


@message("event.register")
def register(call: Call, classes: list[str]) -> None:
    """Begin to collect events for `event.next`."""
    call.pool.sessions.set_event_position(call.session, set(classes), call.db.generation)


@message("event.unregister")
def unregister(call: Call, classes: list[str]) -> None:
    """Stop collecting events of these classes."""
    known, position = call.pool.sessions.event_position(call.session)
    call.pool.sessions.set_event_position(call.session, known - set(classes), position)


@message("event.next")
def event_next(call: Call) -> Value:
    """Wait for the next events of the classes registered for."""
    classes, position = call.pool.sessions.event_position(call.session)
    deadline = time.monotonic() + NEXT_SECONDS
    with call.db.lock:
        while not (found := call.pool.events.since(classes, position)):
            left = deadline - time.monotonic()
            if left <= 0:
                break
            call.db.changed.wait(min(left, 1.0))
            _alive(call)
        call.pool.sessions.set_event_position(call.session, classes, call.db.generation)
    return found
