"""event.*: what changed."""

from lab.calls import Call
from lab.registry import message
from lab.wire.values import Value


def _alive(call: Call) -> None:
    call.pool.sessions.check(call.session)


@message("event.from")
def event_from(call: Call, classes: list[str], token: str, timeout: float) -> Value:
    """Wait for changes after a token."""
    return call.pool.events.wait_for(classes, token, timeout, lambda: _alive(call))
