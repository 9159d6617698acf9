"""Between a client and the lab: sees every byte, and loses answers on demand."""

import contextlib
import socket
import threading


class Passage:
    """A way to the lab that notes what passes and may lose the answers."""

    def __init__(self, behind: int) -> None:
        self.deaf = False
        self.sent: list[bytes] = []
        self.instead: dict[bytes, bytes] = {}
        """What to answer requests that begin so, instead of letting them through."""
        self._behind = behind
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._behind)) as lab:
            back = threading.Thread(target=self._pass_back, args=(lab, client), daemon=True)
            back.start()
            with contextlib.suppress(OSError):
                while data := client.recv(1 << 16):
                    self.sent.append(data)
                    answer = self._answer_to(data)
                    if answer is not None:
                        client.sendall(answer)
                        client.shutdown(socket.SHUT_RDWR)
                        break
                    lab.sendall(data)
                lab.shutdown(socket.SHUT_WR)
            back.join()

    def _answer_to(self, data: bytes) -> bytes | None:
        found = [answer for start, answer in self.instead.items() if data.startswith(start)]
        return found[0] if found else None

    def _pass_back(self, lab: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := lab.recv(1 << 16):
                if self.deaf:
                    break
                client.sendall(data)
            client.shutdown(socket.SHUT_RDWR)
