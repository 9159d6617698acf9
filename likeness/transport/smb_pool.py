"""A few SMB sessions that the threads of a process take turns with."""

import itertools
import os
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

from likeness.transport.smb_errors import FOREIGN, loses_connection
from likeness.transport.smb_session import SmbSession
from likeness.transport.smb_socket import Deadline

_forks = itertools.count(1)
_process = 0  # another number in every process made by fork


def _begin_process() -> None:
    global _process
    _process = next(_forks)


os.register_at_fork(after_in_child=_begin_process)


class _Sessions:
    """What one process holds."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.idle: list[SmbSession] = []
        self.in_use = 0
        self.silences = 0  # how often the server was silent for a whole deadline
        self.closings = 0


class SessionPool:
    """At most `size` sessions, opened when they are first needed.

    A process made by fork begins with none: a connection cannot be shared by two processes.
    """

    def __init__(
        self, connect: Callable[[Deadline], SmbSession], *, size: int, idle_seconds: float
    ) -> None:
        """Prepare; a session idle for longer than `idle_seconds` is asked before it is used."""
        self._connect = connect
        self._size = size
        self._idle_seconds = idle_seconds
        self._by_process: dict[int, _Sessions] = {}

    @contextmanager
    def session(self, deadline: Deadline) -> Generator[SmbSession, None, None]:
        """Take a session for one call, waiting for one to come free.

        That wait lasts as long as those who hold the sessions make progress. When the server
        falls silent for one of them, everybody who waits is told so, and not kept any longer.

        Raises:
            TimeoutError: The server fell silent for somebody else.
            SMBException, OSError: No new session could be opened.
        """
        sessions = self._by_process.setdefault(_process, _Sessions())
        closings = self._wait_for_session(sessions, deadline)
        session: SmbSession | None = None
        try:
            session = self._idle_session(sessions, deadline) or self._connect(deadline)
            yield session
        except FOREIGN as cause:
            if session is not None and loses_connection(cause):
                session.lost = True
            if deadline.used_up:
                self._tell_silence(sessions)
            raise
        except BaseException:
            if session is not None:
                session.lost = True  # left in the middle: answers may still be under way
            raise
        finally:
            self._release(sessions, session, closings)

    def close(self) -> None:
        """Hang up; a session in use is hung up when it is given back."""
        sessions = self._by_process.get(_process)
        if sessions is None:
            return
        with sessions.changed:
            sessions.closings += 1
            idle, sessions.idle = sessions.idle, []
        for session in idle:
            session.drop()

    def _wait_for_session(self, sessions: _Sessions, deadline: Deadline) -> int:
        with sessions.changed:
            silences = sessions.silences
            while sessions.in_use >= self._size:
                sessions.changed.wait()
                if sessions.silences != silences:
                    raise TimeoutError("the server was silent for another call")
                deadline.renew()
            sessions.in_use += 1
            return sessions.closings

    def _idle_session(self, sessions: _Sessions, deadline: Deadline) -> SmbSession | None:
        while True:
            with sessions.changed:
                if not sessions.idle:
                    return None
                session = sessions.idle.pop()
            if session.take_up(deadline, idle_seconds=self._idle_seconds):
                return session
            session.drop()

    @staticmethod
    def _tell_silence(sessions: _Sessions) -> None:
        with sessions.changed:
            sessions.silences += 1
            sessions.changed.notify_all()

    @staticmethod
    def _release(sessions: _Sessions, session: SmbSession | None, closings: int) -> None:
        keep = session is not None and session.alive
        with sessions.changed:
            sessions.in_use -= 1
            keep = keep and sessions.closings == closings
            if keep and session is not None:
                session.set_idle()
                sessions.idle.append(session)
            sessions.changed.notify()
        if session is not None and not keep:
            session.drop()
