"""Reading disks over NBD: to the byte, by a client written from the protocol alone."""

import random
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import XenAPI

from lab.failures import XapiFailure
from lab.nbd.server import MAX_CONNECTIONS
from lab.serving import LabServer
from tests.lab.clients import Xen

MIB = 1 << 20
OPTION_MAGIC = b"IHAVEOPT"
EXPORT_NAME, ABORT, LIST, STARTTLS, INFO, GO = 1, 2, 3, 5, 6, 7
ACK, UNSUP, POLICY, INVALID, TLS_REQD = 1, 0x80000001, 0x80000002, 0x80000003, 0x80000005


class NbdClient:
    """Enough of NBD to ask everything, written from the protocol's description alone."""

    def __init__(self, port: int, *, flags: int = 1) -> None:
        self.sock: socket.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        try:
            greeting = self.receive(18)
        except ConnectionError:
            self.sock.close()
            raise
        assert greeting == b"NBDMAGIC" + OPTION_MAGIC + b"\0\1"
        self.sock.sendall(struct.pack(">I", flags))

    def receive(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            part = self.sock.recv(length - len(data))
            if not part:
                raise ConnectionError("the server hung up")
            data += part
        return data

    def option(self, number: int, data: bytes = b"") -> int:
        self.send_option(number, data)
        magic, option, kind, length = struct.unpack(">QIII", self.receive(20))
        assert (magic, option) == (0x3E889045565A9, number)
        self.receive(length)
        return int(kind)

    def send_option(self, number: int, data: bytes = b"") -> None:
        self.sock.sendall(OPTION_MAGIC + struct.pack(">II", number, len(data)) + data)

    def start_tls(self, cert: str, subject: str) -> None:
        assert self.option(STARTTLS) == ACK
        context = ssl.create_default_context(cadata=cert)
        self.sock = context.wrap_socket(self.sock, server_hostname=subject)

    def open(self, name: str) -> tuple[int, int]:
        self.send_option(EXPORT_NAME, name.encode())
        size, flags = struct.unpack(">QH", self.receive(10))
        assert self.receive(124) == bytes(124)
        return int(size), int(flags)

    def request(self, command: int, handle: int, offset: int, length: int) -> None:
        self.sock.sendall(struct.pack(">IHHQQI", 0x25609513, 0, command, handle, offset, length))

    def reply(self) -> tuple[int, int]:
        magic, error, handle = struct.unpack(">IIQ", self.receive(16))
        assert magic == 0x67446698
        return int(error), int(handle)

    def read(self, offset: int, length: int) -> bytes:
        self.request(0, 7, offset, length)
        assert self.reply() == (0, 7)
        return self.receive(length)

    def disconnect(self) -> None:
        self.request(2, 0, 0, 0)
        self.sock.close()


@pytest.fixture
def disk(lab: LabServer, xen: Xen) -> str:
    """A snapshot of the first disk of `web`, filled with noise."""
    lab.pool.write("web", 0, 0, random.Random(5).randbytes(8 * MIB))
    snapshot = xen.api.VM.snapshot(xen.vm("web"), "s")
    found = xen.disks(snapshot)[0]
    xen.api.VM.destroy(snapshot)
    return found


@pytest.fixture
def content(lab: LabServer, disk: str) -> bytes:
    return lab.pool.disks[disk].read(0, 8 * MIB)


def switch_on(xen: Xen, purpose: str) -> None:
    network = next(
        ref for ref, net in xen.api.network.get_all_records().items() if net["bridge"] == "xenbr0"
    )
    xen.api.network.add_purpose(network, purpose)


@contextmanager
def connected(xen: Xen, disk: str) -> Iterator[NbdClient]:
    info = xen.api.VDI.get_nbd_info(disk)[0]
    client = NbdClient(int(info["port"]))
    try:
        if info["cert"] and xen.lab.pool.hosts.nbd_purpose() == "nbd":
            client.start_tls(info["cert"], info["subject"])
        client.open(info["exportname"])
        yield client
    finally:
        client.sock.close()


def test_without_a_purpose_there_is_no_address_and_no_service(
    lab: LabServer, xen: Xen, disk: str
) -> None:
    assert xen.api.VDI.get_nbd_info(disk) == []
    with pytest.raises(ConnectionError):
        NbdClient(lab.pool.hosts.nbd_port)


def test_the_two_purposes_exclude_each_other_in_the_whole_pool(xen: Xen) -> None:
    switch_on(xen, "nbd")
    other = xen.api.network.create({"name_label": "n", "other_config": {}})
    with pytest.raises(XenAPI.Failure) as refused:
        xen.api.network.add_purpose(other, "insecure_nbd")
    assert refused.value.details == ["NETWORK_INCOMPATIBLE_PURPOSES", "insecure_nbd", "nbd"]


def test_the_info_names_disk_session_address_and_certificate(
    lab: LabServer, xen: Xen, disk: str
) -> None:
    switch_on(xen, "nbd")
    (info,) = xen.api.VDI.get_nbd_info(disk)
    assert info["exportname"] == f"/{xen.api.VDI.get_uuid(disk)}?session_id={xen.token}"
    assert info["address"] == "127.0.0.1"
    assert info["port"] == str(lab.pool.hosts.nbd_port)
    assert info["cert"].startswith("-----BEGIN CERTIFICATE-----")
    host = xen.api.host.get_all()[0]
    assert info["cert"] == xen.api.host.get_server_certificate(host)
    assert info["subject"] == xen.api.host.get_hostname(host)


def test_with_tls_nothing_works_before_it(xen: Xen, disk: str, content: bytes) -> None:
    switch_on(xen, "nbd")
    info = xen.api.VDI.get_nbd_info(disk)[0]
    client = NbdClient(int(info["port"]))
    for option in (LIST, INFO, GO, 99):
        assert client.option(option) == TLS_REQD
    client.start_tls(info["cert"], info["subject"])
    assert client.option(STARTTLS) == INVALID
    assert client.option(LIST) == POLICY
    for option in (INFO, GO, 8, 99):
        assert client.option(option, b"data") == UNSUP
    assert client.open(info["exportname"]) == (8 * MIB, 3)
    assert client.read(3, 1000) == content[3:1003]
    client.disconnect()

    plain = NbdClient(int(info["port"]))
    plain.send_option(EXPORT_NAME, info["exportname"].encode())
    with pytest.raises(ConnectionError):
        plain.receive(1)
    plain.sock.close()


def test_without_tls_it_is_refused(xen: Xen, disk: str, content: bytes) -> None:
    switch_on(xen, "insecure_nbd")
    info = xen.api.VDI.get_nbd_info(disk)[0]
    client = NbdClient(int(info["port"]))
    assert client.option(STARTTLS) == POLICY
    assert client.option(GO) == UNSUP
    assert client.open(info["exportname"]) == (8 * MIB, 3)
    assert client.read(0, 2 * MIB) == content[: 2 * MIB]
    client.disconnect()
    leaver = NbdClient(int(info["port"]))
    assert leaver.option(ABORT) == ACK
    leaver.sock.close()


def test_a_client_of_the_old_style_is_not_served(xen: Xen, disk: str) -> None:
    switch_on(xen, "insecure_nbd")
    client = NbdClient(int(xen.api.VDI.get_nbd_info(disk)[0]["port"]), flags=0)
    with pytest.raises(ConnectionError):
        client.option(LIST)
    client.sock.close()


def test_writes_are_not_permitted_and_reads_end_with_the_disk(xen: Xen, disk: str) -> None:
    switch_on(xen, "insecure_nbd")
    with connected(xen, disk) as client:
        client.request(1, 1, 0, 5)
        client.sock.sendall(b"hello")
        assert client.reply() == (1, 1)
        client.request(3, 2, 0, 0)
        assert client.reply() == (1, 2)
        client.request(0, 3, 8 * MIB - 1, 2)
        assert client.reply() == (22, 3)
        assert len(client.read(8 * MIB - 1, 1)) == 1


def test_requests_may_be_sent_without_waiting(xen: Xen, disk: str, content: bytes) -> None:
    switch_on(xen, "insecure_nbd")
    with connected(xen, disk) as client:
        for number in range(32):
            client.request(0, number, number * 65536, 65536)
        for number in range(32):
            assert client.reply() == (0, number)
            assert client.receive(65536) == content[number * 65536 : (number + 1) * 65536]


@pytest.mark.parametrize("name", ["/nothing?session_id={session}", "{export}x", "", "/{uuid}"])
def test_a_wrong_name_or_session_ends_the_connection(xen: Xen, disk: str, name: str) -> None:
    switch_on(xen, "insecure_nbd")
    info = xen.api.VDI.get_nbd_info(disk)[0]
    asked = name.format(
        session=xen.token, export=info["exportname"], uuid=xen.api.VDI.get_uuid(disk)
    )
    client = NbdClient(int(info["port"]))
    client.send_option(EXPORT_NAME, asked.encode())
    with pytest.raises(ConnectionError):
        client.receive(1)
    client.sock.close()


def test_dom0_holds_the_disk_while_connected_and_a_moment_longer(xen: Xen, disk: str) -> None:
    xen.lab.pool.settings.detach_seconds = 0.4
    switch_on(xen, "nbd")
    in_use = ["VDI_IN_USE", disk, "destroy"]
    with connected(xen, disk) as client:
        client.read(0, 512)
        with pytest.raises(XenAPI.Failure) as refused:
            xen.api.VDI.destroy(disk)
        assert refused.value.details == in_use
        client.disconnect()
    with pytest.raises(XenAPI.Failure) as refused:
        xen.api.VDI.destroy(disk)
    assert refused.value.details == in_use
    xen.until_free(disk)
    xen.api.VDI.destroy(disk)


def test_sixteen_connections_are_served_and_no_more(xen: Xen, disk: str, content: bytes) -> None:
    switch_on(xen, "insecure_nbd")
    info = xen.api.VDI.get_nbd_info(disk)[0]

    def join() -> NbdClient:
        client = NbdClient(int(info["port"]))
        client.open(info["exportname"])
        return client

    clients = [join() for _ in range(MAX_CONNECTIONS)]
    with pytest.raises(ConnectionError):
        NbdClient(int(info["port"]))
    with ThreadPoolExecutor(MAX_CONNECTIONS) as threads:
        bodies = list(threads.map(lambda client: client.read(0, 4 * MIB), clients))
    assert all(body == content[: 4 * MIB] for body in bodies)
    clients.pop().disconnect()
    end = time.monotonic() + 30
    while True:
        try:
            clients.append(join())
            break
        except ConnectionError:
            assert time.monotonic() < end, "no place becomes free"
            time.sleep(0.01)
    for client in clients:
        client.disconnect()


def test_reads_are_counted(lab: LabServer, xen: Xen, disk: str) -> None:
    switch_on(xen, "insecure_nbd")
    with connected(xen, disk) as client:
        client.read(0, 1000)
        client.read(0, 24)
    counted, uuid = lab.pool.counters(), xen.api.VDI.get_uuid(disk)
    assert counted["exported_bytes"][uuid] == 1024
    assert counted["nbd_reads"][uuid] == 2


@pytest.mark.parametrize("kind", ["short", "session"])
def test_a_connection_can_break_in_the_middle(
    lab: LabServer, xen: Xen, disk: str, kind: str
) -> None:
    switch_on(xen, "insecure_nbd")
    lab.pool.faults.fail_export(kind, after_bytes=MIB)
    with connected(xen, disk) as client:
        client.read(0, MIB)
        with pytest.raises(ConnectionError):
            client.read(MIB, 1)
    if kind == "session":
        with pytest.raises(XapiFailure, match="SESSION_INVALID"):
            lab.pool.sessions.check(xen.token)


def test_a_read_can_fail_or_stall(lab: LabServer, xen: Xen, disk: str) -> None:
    switch_on(xen, "insecure_nbd")
    lab.pool.faults.fail_export("second-answer")
    with connected(xen, disk) as client:
        client.request(0, 1, 0, 1)
        assert client.reply() == (5, 1)
    lab.pool.faults.fail_export("stall")
    with connected(xen, disk) as client:
        client.sock.settimeout(0.2)
        client.request(0, 1, 0, 1)
        with pytest.raises(TimeoutError):
            client.reply()
        client.sock.settimeout(30)
        threading.Timer(0.05, lab.pool.faults.clear).start()
        assert client.reply() == (0, 1)
