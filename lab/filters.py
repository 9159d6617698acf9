"""The little language of `get_all_records_where`: `field "power_state" = "Halted" and not true`."""

import re
from collections.abc import Callable, Mapping

from lab.failures import XapiFailure
from lab.wire.values import Value

Predicate = Callable[[Mapping[str, Value]], bool]

_TOKEN = re.compile(r'\s*(?:(?P<word>[A-Za-z_]+)|"(?P<text>(?:[^"\\]|\\.)*)"|(?P<sign>[()=]))')


def parse_filter(text: str) -> Predicate:
    """Read an expression.

    Raises:
        XapiFailure: INVALID_VALUE when it makes no sense.
    """
    try:
        reader = _Reader(_tokens(text))
        predicate = reader.either()
        reader.expect("end", "")
    except ValueError as cause:
        raise XapiFailure("INVALID_VALUE", "expr", text) from cause
    return predicate


def _tokens(text: str) -> list[tuple[str, str]]:
    tokens, position = [], 0
    while text[position:].strip():
        found = _TOKEN.match(text, position)
        if not found or found.lastgroup is None:
            raise ValueError(text)
        tokens.append((found.lastgroup, found[found.lastgroup]))
        position = found.end()
    return [*tokens, ("end", "")]


def _shown(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


class _Reader:
    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self._tokens = tokens

    def take(self) -> tuple[str, str]:
        return self._tokens.pop(0) if self._tokens else ("end", "")

    def expect(self, kind: str, text: str) -> None:
        if self.take() != (kind, text):
            raise ValueError(text)

    def next_is(self, word: str) -> bool:
        if self._tokens[0] == ("word", word):
            self._tokens.pop(0)
            return True
        return False

    def either(self) -> Predicate:
        first = self.both()
        if self.next_is("or"):
            second = self.either()
            return lambda record: first(record) or second(record)
        return first

    def both(self) -> Predicate:
        first = self.single()
        if self.next_is("and"):
            second = self.both()
            return lambda record: first(record) and second(record)
        return first

    def single(self) -> Predicate:
        kind, text = self.take()
        if (kind, text) == ("sign", "("):
            inside = self.either()
            self.expect("sign", ")")
            return inside
        if kind == "word" and text in ("true", "false"):
            return lambda _: text == "true"
        if (kind, text) == ("word", "not"):
            negated = self.single()
            return lambda record: not negated(record)
        return self.comparison(kind, text)

    def comparison(self, kind: str, text: str) -> Predicate:
        left = self.operand(kind, text)
        self.expect("sign", "=")
        right = self.operand(*self.take())
        return lambda record: left(record) == right(record)

    def operand(self, kind: str, text: str) -> Callable[[Mapping[str, Value]], str]:
        if (kind, text) == ("word", "field"):
            name_kind, name = self.take()
            if name_kind != "text":
                raise ValueError(name)
            return lambda record: _shown(record.get(name.replace("__", "_"), ""))
        if kind != "text":
            raise ValueError(text)
        literal = text.replace('\\"', '"').replace("\\\\", "\\")
        return lambda _: literal
