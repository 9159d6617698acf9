"""From a method's name and raw parameters to what it does."""

import threading
from collections.abc import Callable
from functools import cache

from lab import behaviours, roles
from lab.calls import Call
from lab.facts import Facts, Message
from lab.failures import XapiFailure
from lab.implicit import Handler, constructor_fields, implicit_handler
from lab.journal import HIDDEN_TEXT
from lab.other_classes import all_facts
from lab.parts.assembly import Parts
from lab.parts.faults import ASYNC, LIST_METHODS
from lab.registry import BEHAVIOURS
from lab.wire.values import Value, coerce, is_null

REMOVED_LATER = frozenset({"VM.snapshot_with_quiesce"})
WITHOUT_OPTIONS = frozenset({"VM.snapshot"})
SECRET_PARAMETERS = frozenset({"pwd", "psecret", "old_pwd", "new_pwd", "password", "value"})
SECRET_CLASSES = frozenset({"session", "secret", "user"})


class Dispatcher:
    """Answers calls for one pool."""

    def __init__(self, pool: Parts) -> None:
        self._pool = pool
        self._messages, self._handlers = _messages_and_handlers()

    def list_methods(self) -> list[str]:
        """The names of all published messages."""
        return [m.full_name for m in self._pool.facts.messages() if not m.hidden]

    def does(self, full_name: str) -> bool:
        """Whether a message is modelled; one that is not answers NOT_IMPLEMENTED."""
        return self._handlers[full_name] is not None

    def answer(self, method: str, given: list[Value], host: str = "") -> Value:
        """Run one call.

        Args:
            method: `Class.message`, `Class_message`, `Async.Class.message`, `system.listMethods`.
            given: Parameters as parsed, the session first.
            host: Reference of the host that was asked.

        Raises:
            XapiFailure: The call fails.
        """
        if method == LIST_METHODS:
            self._pool.faults.strike(Call(self._pool, LIST_METHODS))
            return self.list_methods()
        asynchronous = method.startswith(ASYNC)
        message = self._messages.get(method.removeprefix(ASYNC))
        if message is None or (asynchronous and not self._may_be_async(message, method)):
            raise XapiFailure("MESSAGE_METHOD_UNKNOWN", method)
        shown = _without_secrets(message, given)
        with self._pool.journal.writing(f"{ASYNC * asynchronous}{message.full_name}", shown):
            return self._run(message, given, asynchronous=asynchronous, host=host)

    @staticmethod
    def _may_be_async(message: Message, method: str) -> bool:
        return message.asynchronous and not message.open and method.count(".") == 2

    def _run(self, message: Message, given: list[Value], *, asynchronous: bool, host: str) -> Value:
        session, arguments = _split(message, given)
        if self._pool.settings.old_host and message.full_name in WITHOUT_OPTIONS:
            _refuse_options(message, len(arguments))
        if not message.open:
            self._pool.sessions.check(session)
            roles.require(self._pool.sessions.role(session), message.role, message.full_name)
        if message.removed and not self._still_there(message):
            raise XapiFailure("MESSAGE_REMOVED")
        parameters = self._bring_into_form(message, arguments)
        call = Call(self._pool, message.full_name, session=session, host=host)
        work = self._work(message, call, parameters)
        if not asynchronous:
            return work()
        call.task = self._pool.tasks.create(f"{ASYNC}{message.full_name}", cancellable=True)
        runner = threading.Thread(
            target=self._pool.tasks.run, args=(call.task, work), name=call.task, daemon=True
        )
        runner.start()
        return call.task

    def _still_there(self, message: Message) -> bool:
        return self._pool.settings.old_host and message.full_name in REMOVED_LATER

    def _work(self, message: Message, call: Call, parameters: list[Value]) -> Callable[[], Value]:
        handler = self._handlers[message.full_name]

        def work() -> Value:
            self._pool.faults.strike(call)
            if handler is None:
                raise XapiFailure("NOT_IMPLEMENTED", message.full_name)
            return handler(call, *parameters)

        return work

    def _bring_into_form(self, message: Message, arguments: list[Value]) -> list[Value]:
        facts, parameters = self._pool.facts, []
        for index, parameter in enumerate(message.parameters):
            if index >= len(arguments):
                parameters.append(parameter.default)
                continue
            value = coerce(arguments[index], parameter.type, parameter.name, facts.enums)
            self._must_exist(message, index, parameter.type, value)
            parameters.append(value)
        return parameters

    def _must_exist(self, message: Message, index: int, type_name: str, value: Value) -> None:
        """A reference has to point to something; only the first may never be null."""
        if not type_name.startswith("ref "):
            return
        class_name = type_name[4:]
        if (index > 0 and is_null(value)) or self._pool.db.exists(class_name, value):
            return
        if message.name == "destroy" or class_name in self._pool.facts.classes or index == 0:
            raise XapiFailure("HANDLE_INVALID", class_name, value)


@cache
def _messages_and_handlers() -> tuple[dict[str, Message], dict[str, Handler | None]]:
    behaviours.load_all()
    facts = all_facts()
    names = {m.full_name: m for m in facts.messages()}
    handlers = {name: _handler(message, facts) for name, message in names.items()}
    return names | {f"{m.class_name}_{m.name}": m for m in facts.messages()}, handlers


def _handler(message: Message, facts: Facts) -> Handler | None:
    behaviour = BEHAVIOURS.get(message.full_name)
    if behaviour is None:
        fields = {name: f.type for name, f in facts.classes[message.class_name].fields.items()}
        return implicit_handler(message, fields)
    if message.constructor is None:
        return behaviour
    known = behaviour
    return lambda call, given: known(call, constructor_fields(call, message, given))


def _split(message: Message, given: list[Value]) -> tuple[str, list[Value]]:
    """Separate the session from the rest and count."""
    before = 0 if message.open else 1
    received = len(given) - before
    too_many = received > len(message.parameters) and message.required == len(message.parameters)
    if received < message.required or too_many:
        name = message.full_name
        raise XapiFailure("MESSAGE_PARAMETER_COUNT_MISMATCH", name, message.required, received)
    if message.open:
        return "", given
    return given[0] if isinstance(given[0], str) else "", given[1:]


def _refuse_options(message: Message, received: int) -> None:
    """Know no optional parameters, as before they were added."""
    if received > message.required:
        name = message.full_name
        raise XapiFailure("MESSAGE_PARAMETER_COUNT_MISMATCH", name, message.required, received)


def _without_secrets(message: Message, given: list[Value]) -> tuple[Value, ...]:
    arguments = given if message.open else given[1:]
    secretive = message.class_name in SECRET_CLASSES
    shown = []
    for index, argument in enumerate(arguments):
        known = index < len(message.parameters)
        name = message.parameters[index].name if known else ""
        typed = known and message.parameters[index].type.startswith("secret")
        hide = typed or name in SECRET_PARAMETERS - {"value"} or (secretive and name == "value")
        shown.append(HIDDEN_TEXT if hide or not known else argument)
    return tuple(shown)
