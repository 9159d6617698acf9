"""Where the modelled behaviour of a message is found by its name."""

from collections.abc import Callable
from typing import TypeVar

from lab.wire.values import Value

Behaviour = Callable[..., Value]
_Function = TypeVar("_Function", bound=Behaviour)

BEHAVIOURS: dict[str, Behaviour] = {}


def message(*names: str) -> Callable[[_Function], _Function]:
    """Declare a function to be what `Class.message` does.

    It is called with a `Call` and the message's parameters in order, brought into form; what it
    returns goes to the caller, what it raises as `XapiFailure` too.
    """

    def declare(function: _Function) -> _Function:
        for name in names:
            if name in BEHAVIOURS:
                raise ValueError(f"{name} has two behaviours")
            BEHAVIOURS[name] = function
        return function

    return declare
