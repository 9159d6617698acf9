"""What a connection's socket does with what comes."""

import socket
import sys
import threading
from types import FrameType

import pytest

from likeness.transport.smb_socket import BoundedSocket, Deadline


def test_a_message_is_opened_while_a_profiler_keeps_every_frame(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept: list[FrameType] = []
    real = BoundedSocket._receive_some

    def seen(self: BoundedSocket, view: memoryview) -> int:
        got = real(self, view[:3])  # in pieces, as a slow line gives them
        kept.append(sys._getframe())
        return got

    def grown(message: bytearray) -> bytes:
        message += b"!"
        return bytes(message)

    monkeypatch.setattr(BoundedSocket, "_receive_some", seen)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        ours = BoundedSocket("127.0.0.1", port, deadline=lambda: Deadline(30), opened=grown)
        connecting = threading.Thread(target=ours.connect)
        connecting.start()
        theirs, _ = listening.accept()
        connecting.join()
        with theirs:
            theirs.sendall(b"\0\0\0\x07message")
            assert ours.recv(0) == b"message!"
        ours.close()
    assert len(kept) > 4
