"""The journal of all calls."""

import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from lab.wire.values import Value

JOURNAL_LENGTH = 20_000
HIDDEN_TEXT = "(hidden)"


@dataclass(frozen=True)
class JournalEntry:
    """One call as it was received; secrets are left out."""

    at: float
    method: str
    parameters: tuple[Value, ...]
    failure: str


class Journal:
    """The latest calls, and how often each method was called."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: deque[JournalEntry] = deque(maxlen=JOURNAL_LENGTH)
        self._counts: Counter[str] = Counter()

    @contextmanager
    def writing(self, method: str, parameters: tuple[Value, ...]) -> Iterator[None]:
        """Note a call when it ends, with the code it failed with, if it did."""
        at, failure = time.time(), ""
        with self._lock:
            self._counts[method] += 1
        try:
            yield
        except Exception as error:
            failure = str(getattr(error, "code", "INTERNAL_ERROR"))
            raise
        finally:
            with self._lock:
                self._entries.append(JournalEntry(at, method, parameters, failure))

    def entries(self, method: str = "") -> list[JournalEntry]:
        """The calls so far, of one method or of all."""
        with self._lock:
            return [e for e in self._entries if method in ("", e.method)]

    def counts(self) -> dict[str, int]:
        """How often each method was called."""
        with self._lock:
            return dict(self._counts)
