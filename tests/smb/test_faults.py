"""What happens to a call when the server, its disk or its accounts fail in the middle of it."""

import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from smbprotocol.change_notify import CompletionFilter, SMB2ChangeNotifyRequest
from smbprotocol.open import SMB2CreateResponse

from likeness.errors import (
    LikenessError,
    NameTaken,
    ShareFull,
    ShareRefused,
    ShareUnreachable,
)
from likeness.transport.smb import SmbTransport
from likeness.transport.smb_errors import ShareAccount
from likeness.transport.smb_requests import FOLDER, LIST, contents, opening
from likeness.transport.smb_session import SmbSession
from likeness.transport.smb_socket import Deadline
from tests.smb.server import SmbServer
from tests.smb.wire import Wire

pytestmark = pytest.mark.smb

MIB = 1 << 20
ROOT = Path(__file__).parents[2]
DEADLINE = 2.0
MARGIN = 10.0  # seconds a loaded machine may take on top; a hang takes for ever
LARGE = [os.urandom(MIB)] * 96


@pytest.fixture
def transport(own_smb_server: SmbServer) -> Generator[SmbTransport, None, None]:
    """With a deadline that a loaded machine keeps."""
    made = own_smb_server.transport(deadline_seconds=30)
    yield made
    made.close()


@pytest.fixture
def impatient(own_smb_server: SmbServer) -> Generator[SmbTransport, None, None]:
    """With a deadline that tests of silence can wait for."""
    made = own_smb_server.transport(deadline_seconds=DEADLINE)
    yield made
    made.close()


def once_it_has_bytes(path: Path, act: Callable[[], object]) -> threading.Thread:
    """Carry `act` out as soon as the file at `path` holds something."""

    def wait() -> None:
        until = time.monotonic() + 20
        while time.monotonic() < until:
            if path.exists() and path.stat().st_size > 0:
                act()
                return
            time.sleep(0.0005)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def seconds_of(call: Callable[[], object], error: type[LikenessError]) -> tuple[float, str]:
    """How long a call took to fail, and what it said."""
    begun = time.monotonic()
    with pytest.raises(error) as told:
        call()
    return time.monotonic() - begun, str(told.value)


# --- the connection is lost ----------------------------------------------------------------------


def test_a_server_process_killed_in_mid_write_ends_the_call_and_not_the_transport(
    own_smb_server: SmbServer, transport: SmbTransport
) -> None:
    torn = own_smb_server.folder() / "packs/torn"
    killing = once_it_has_bytes(torn, own_smb_server.kill_connections)

    with pytest.raises(ShareUnreachable, match=r"packs/torn.*then run again"):
        transport.create("packs/torn", LARGE)
    killing.join()

    assert 0 < torn.stat().st_size < 96 * MIB
    transport.create("packs/again", LARGE[:3])
    assert transport.read("packs/again") == b"".join(LARGE[:3])


def test_a_lost_write_is_never_sent_again_under_its_name(
    own_smb_server: SmbServer, transport: SmbTransport
) -> None:
    torn = own_smb_server.folder() / "torn"
    killing = once_it_has_bytes(torn, own_smb_server.kill_connections)
    with pytest.raises(ShareUnreachable):
        transport.create("torn", LARGE)
    killing.join()
    left = torn.stat()

    with pytest.raises(NameTaken):
        transport.create("torn", LARGE)

    assert (torn.stat().st_size, torn.stat().st_mtime_ns) == (left.st_size, left.st_mtime_ns)


def test_a_read_goes_on_over_a_new_connection_when_its_own_is_lost(
    own_smb_server: SmbServer, transport: SmbTransport
) -> None:
    transport.create("large", LARGE)
    stop = threading.Event()

    def keep_killing() -> None:
        for _ in range(2):
            time.sleep(0.05)
            own_smb_server.kill_connections()
        stop.set()

    killing = threading.Thread(target=keep_killing)
    killing.start()
    results = [transport.read("large") == b"".join(LARGE)]
    while not stop.is_set():
        results.append(transport.read("large") == b"".join(LARGE))
    killing.join()

    assert all(results)


def test_a_restart_between_calls_is_not_noticed(
    own_smb_server: SmbServer, transport: SmbTransport
) -> None:
    transport.create("before", [b"1"])
    for number in range(3):
        own_smb_server.restart()
        transport.create(f"after/{number}", [b"2"])
        own_smb_server.restart()
        assert transport.read("before") == b"1"

    assert [entry.name for entry in transport.entries("after")] == [f"after/{n}" for n in range(3)]


def test_a_server_that_went_away_is_unreachable_and_welcome_back(
    own_smb_server: SmbServer, transport: SmbTransport
) -> None:
    transport.create("before", [b"1"])
    own_smb_server.kill()

    for call in (
        lambda: transport.read("before"),
        lambda: transport.create("meanwhile", [b"2"]),
        lambda: list(transport.entries("")),
        transport.space,
    ):
        seconds, told = seconds_of(call, ShareUnreachable)
        assert seconds < DEADLINE + MARGIN
        assert "127.0.0.1" in told
        assert "/ads" in told

    own_smb_server.start()
    assert transport.read("before") == b"1"
    assert [entry.name for entry in transport.entries("")] == ["before"]


# --- the server falls silent ---------------------------------------------------------------------


def test_a_server_frozen_in_mid_write_ends_the_call_within_its_deadline(
    own_smb_server: SmbServer, impatient: SmbTransport
) -> None:
    frozen_at: list[float] = []

    def freeze() -> None:
        own_smb_server.freeze()
        frozen_at.append(time.monotonic())

    freezing = once_it_has_bytes(own_smb_server.folder() / "slow", freeze)
    with pytest.raises(ShareUnreachable, match=r"slow.*did not answer for 2 seconds"):
        impatient.create("slow", LARGE)
    ended_at = time.monotonic()
    freezing.join()

    assert ended_at - frozen_at[0] < DEADLINE + MARGIN
    own_smb_server.thaw()
    impatient.create("quick", LARGE[:2])
    assert impatient.size("quick") == 2 * MIB


def test_a_server_that_is_still_at_it_is_given_the_whole_deadline_and_no_more(
    own_smb_server: SmbServer,
) -> None:
    place = ShareAccount("127.0.0.1", "ads", "", own_smb_server.username, own_smb_server.port)
    session = SmbSession(place, own_smb_server.password, encrypt=True, deadline=Deadline(20))
    folder, message = opening(session, "", LIST, options=FOLDER)
    folder.file_id = contents(SMB2CreateResponse, session.ask(message))["file_id"].get_value()
    watch = SMB2ChangeNotifyRequest()  # answered at once with "pending", and then never
    watch["output_buffer_length"] = 4096
    watch["file_id"] = folder.file_id
    watch["completion_filter"] = CompletionFilter.FILE_NOTIFY_CHANGE_FILE_NAME

    session.connection.deadline = Deadline(1.7)
    begun = time.monotonic()
    with pytest.raises(TimeoutError):
        session.ask(watch)

    assert session.deadline.used_up
    assert 1.7 <= time.monotonic() - begun < 1.7 + MARGIN
    session.drop()


@pytest.mark.parametrize("used_before", [True, False], ids=["connected", "not yet connected"])
def test_no_call_hangs_on_a_frozen_server(
    own_smb_server: SmbServer,
    used_before: bool,  # noqa: FBT001
) -> None:
    calls: list[Callable[[SmbTransport], object]] = [
        lambda transport: transport.read("present"),
        lambda transport: transport.size("present"),
        lambda transport: transport.create("small", [b"1"]),
        lambda transport: transport.create("large", [bytes(MIB * 2)]),
        lambda transport: transport.rename("absent", "elsewhere"),  # the server may still do these
        lambda transport: transport.delete("absent"),
        lambda transport: transport.delete_folder("absent"),
        lambda transport: list(transport.entries("")),
        lambda transport: transport.folders(""),
        lambda transport: transport.space(),
    ]
    transports = [own_smb_server.transport(deadline_seconds=DEADLINE) for _ in calls]
    transports[0].create("present", [bytes(MIB * 2)])
    for transport in transports:
        if used_before:
            transport.space()
        else:
            transport.close()

    with own_smb_server.frozen(), ThreadPoolExecutor(len(calls)) as threads:
        failures = [
            threads.submit(seconds_of, partial(call, transport), ShareUnreachable)
            for call, transport in zip(calls, transports, strict=True)
        ]
        for failure in failures:
            seconds, told = failure.result()
            assert seconds < DEADLINE + MARGIN
            assert "did not answer for 2 seconds" in told
        begun = time.monotonic()
        for transport in transports:
            transport.close()
        assert time.monotonic() - begun < MARGIN

    assert transports[0].read("present") == bytes(MIB * 2)
    transports[0].close()


def test_nobody_waits_for_others_who_get_no_answer(
    own_smb_server: SmbServer, impatient: SmbTransport
) -> None:
    """Sixteen callers on two connections: not eight deadlines one after the other."""
    impatient.create("present", [b"1"])

    with own_smb_server.frozen(), ThreadPoolExecutor(16) as threads:
        begun = time.monotonic()
        failed = [threads.submit(impatient.read, "present") for _ in range(16)]
        for future in failed:
            assert isinstance(future.exception(), ShareUnreachable)
        assert time.monotonic() - begun < 2 * DEADLINE + MARGIN

    assert impatient.read("present") == b"1"


def test_a_line_that_swallows_everything_ends_the_call(own_smb_server: SmbServer) -> None:
    with Wire(own_smb_server.port) as wire:
        transport = own_smb_server.transport(port=wire.port, deadline_seconds=DEADLINE)
        transport.create("present", [b"1"])
        wire.hold()

        seconds, told = seconds_of(lambda: transport.create("new", LARGE[:30]), ShareUnreachable)
        transport.close()

    assert seconds < DEADLINE + MARGIN
    assert "did not answer" in told


def test_an_idle_connection_that_died_unseen_is_replaced_before_it_is_used(
    own_smb_server: SmbServer,
) -> None:
    """As after a firewall forgot it: nothing comes back, not even a refusal."""
    with Wire(own_smb_server.port) as wire:
        transport = own_smb_server.transport(port=wire.port, deadline_seconds=4, idle_seconds=0)
        transport.create("present", [b"1"])
        wire.forget_connections()

        transport.create("new", [b"2"])
        assert transport.read("new") == b"2"
        transport.close()

    assert wire.connections == 2


def test_a_server_that_accepts_and_says_nothing_ends_the_call(smb_server: SmbServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        transport = smb_server.transport(port=silent.getsockname()[1], deadline_seconds=DEADLINE)

        seconds, told = seconds_of(lambda: transport.read("object"), ShareUnreachable)

    assert seconds < DEADLINE + MARGIN
    assert "did not answer for 2 seconds" in told


def test_something_that_is_no_smb_server_is_told_apart(smb_server: SmbServer) -> None:
    def answer_with_nonsense(listening: socket.socket) -> None:
        for _ in range(3):
            client, _ = listening.accept()
            with client:
                client.recv(1000)
                client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as web:
        threading.Thread(target=answer_with_nonsense, args=(web,), daemon=True).start()
        transport = smb_server.transport(port=web.getsockname()[1], deadline_seconds=DEADLINE)

        seconds, told = seconds_of(lambda: transport.read("object"), ShareUnreachable)

    assert seconds < DEADLINE + MARGIN
    assert "127.0.0.1" in told


@pytest.mark.parametrize("moment", ["idle", "in mid-write", "connecting"])
def test_a_program_ends_although_its_server_is_frozen(
    own_smb_server: SmbServer, moment: str
) -> None:
    program = f"""
        import sys
        from likeness.errors import ShareUnreachable
        from likeness.transport.smb import SmbTransport

        transport = SmbTransport(
            "127.0.0.1",
            "ads",
            username={own_smb_server.username!r},
            password=sys.stdin.readline().strip(),
            port={own_smb_server.port},
            deadline_seconds=2,
        )
        moment = {moment!r}
        if moment != "connecting":
            transport.create("begun", [b"1"])
        print("ready", flush=True)
        sys.stdin.readline()
        if moment != "idle":
            try:
                transport.create("never", [bytes(1 << 20)] * 50)
            except ShareUnreachable as told:
                print(told, flush=True)
        print("leaving", flush=True)
    """
    running = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert running.stdin is not None
    assert running.stdout is not None
    try:
        running.stdin.write(f"{own_smb_server.password}\n")
        running.stdin.flush()
        assert running.stdout.readline() == "ready\n"
        with own_smb_server.frozen():
            running.stdin.write("go\n")
            running.stdin.close()
            assert running.wait(2 + 2 * MARGIN) == 0
        said = running.stdout.read()
    finally:
        running.kill()
        running.wait()
        running.stdout.close()

    assert said.endswith("leaving\n")
    assert ("did not answer for 2 seconds" in said) == (moment != "idle")


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.needs("mount")
@pytest.mark.parametrize("size", [40 * MIB, 60_000], ids=["large", "small"])
def test_a_full_share_says_so_gives_the_room_back_and_works_again(
    own_smb_server: SmbServer, size: int
) -> None:
    if os.getuid() != 0:
        pytest.skip("not root: a small file system cannot be mounted")
    with own_smb_server.small("ads", size_bytes=16 * MIB):
        transport = own_smb_server.transport(deadline_seconds=DEADLINE)
        transport.create("kept", [bytes(MIB)])
        filling = 0
        while transport.space().free_bytes > min(size, 20_000):
            free = transport.space().free_bytes
            transport.create(f"fill/{filling}", [bytes(max(min(free - 16_384, 15 * MIB), 4096))])
            filling += 1

        with pytest.raises(ShareFull, match=r"new.*no room left.*STATUS_DISK_FULL"):
            transport.create("new", [bytes(size)])

        assert not (own_smb_server.folder() / "new").exists()
        assert transport.read("kept") == bytes(MIB)
        transport.delete("fill/0")
        transport.create("newer", [bytes(MIB)])
        assert transport.read("newer") == bytes(MIB)
        transport.close()


def test_a_read_only_share_is_refused_and_stays_readable(
    own_smb_server: SmbServer, transport: SmbTransport
) -> None:
    transport.create("packs/before", [b"1"])
    own_smb_server.set_read_only("ads")

    for call in (
        lambda: transport.create("packs/new", [b"2"]),
        lambda: transport.create("packs/new", LARGE[:3]),
        lambda: transport.create("elsewhere/new", [b"2"]),
        lambda: transport.rename("packs/before", "packs/after"),
        lambda: transport.delete("packs/before"),
    ):
        _, told = seconds_of(call, ShareRefused)
        assert re.search("may not do this; check its rights.*STATUS_", told)

    assert transport.read("packs/before") == b"1"
    own_smb_server.set_read_only("ads", read_only=False)
    transport.create("packs/new", [b"2"])
    assert [entry.name for entry in transport.entries("")] == ["packs/before", "packs/new"]


def test_a_password_changed_in_mid_job_is_told_at_the_next_connection(
    own_smb_server: SmbServer, transport: SmbTransport
) -> None:
    transport.create("before", [b"1"])
    old = own_smb_server.password
    own_smb_server.set_password("another-one")
    assert transport.read("before") == b"1"  # the session goes on

    own_smb_server.kill_connections()
    _, told = seconds_of(lambda: transport.read("before"), ShareRefused)

    assert f"does not accept the account '{own_smb_server.username}'" in told
    assert "STATUS_LOGON_FAILURE" in told
    assert "check its name and password" in told
    assert old not in told
    own_smb_server.set_password(old)
    assert transport.read("before") == b"1"


@pytest.mark.parametrize(
    ("settings", "error", "sentence"),
    [
        (
            {"password": "wrong"},
            ShareRefused,
            r"does not accept the account .*STATUS_LOGON_FAILURE.*check its name and password",
        ),
        ({"username": "stranger"}, ShareRefused, r"does not accept the account 'stranger'"),
        (
            {"share": "adds"},
            ShareRefused,
            r"has no share 'adds'; correct .*STATUS_BAD_NETWORK_NAME",
        ),
        ({"port": 1}, ShareUnreachable, r"no connection \(Connection refused\); check that"),
    ],
    ids=["wrong password", "unknown account", "wrong share", "nobody listens"],
)
def test_what_cannot_work_is_told_in_a_sentence(
    smb_server: SmbServer, settings: dict[str, object], error: type[LikenessError], sentence: str
) -> None:
    transport = smb_server.transport(**settings)  # type: ignore[arg-type]

    for call in (lambda: transport.read("object"), lambda: transport.create("object", [b"1"])):
        _, told = seconds_of(call, error)
        assert re.search(sentence, told)
        assert told.startswith("//127.0.0.1:")


@pytest.mark.parametrize("credits", [8, 64, 200])
def test_a_server_that_grants_little_is_not_asked_for_more(credits: int) -> None:
    """Credits limit what may be under way; whoever sends more is cut off."""
    server = SmbServer(extra=[f"smb2 max credits = {credits}"])
    try:
        server.start()
        transport = server.transport()
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda n: transport.create(f"packs/{n}", LARGE[:20]), range(4)))
            read = list(threads.map(lambda n: transport.read(f"packs/{n}"), range(4)))
        transport.close()
    finally:
        server.remove()

    assert all(data == b"".join(LARGE[:20]) for data in read)


def test_a_mistake_of_the_callers_spoils_no_later_call(
    own_smb_server: SmbServer, transport: SmbTransport
) -> None:
    """It ends in the middle of a write, with answers still under way."""
    with pytest.raises(TypeError):
        transport.create("mistaken", [*LARGE[:10], "no bytes" * MIB])  # type: ignore[list-item]

    transport.create("right", LARGE[:10])
    assert transport.read("right") == b"".join(LARGE[:10])


# --- processes and long listings -----------------------------------------------------------------


def test_a_forked_process_opens_its_own_connection(
    own_smb_server: SmbServer, transport: SmbTransport
) -> None:
    transport.create("parent", [b"1"])

    child = os.fork()
    if child == 0:  # no assertion, no fixture, no exit handler in here
        try:
            signal.alarm(30)
            transport.create("child", [transport.read("parent"), b"2"])
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 0
    assert transport.read("child") == b"12"
    transport.create("again", [b"3"])


def test_a_folder_of_many_thousands_is_listed_whole(smb_server: SmbServer) -> None:
    folder = smb_server.folder() / "many/3f"
    folder.mkdir(parents=True)
    wanted = [f"many/3f/{number:08d}-{'n' * 80}" for number in range(6000)]
    for number, name in enumerate(wanted):
        (smb_server.folder() / name).write_bytes(b"x" * (number % 3))

    with_sizes = list(smb_server.transport().entries("many"))

    assert [entry.name for entry in with_sizes] == wanted
    assert [entry.size_bytes for entry in with_sizes] == [n % 3 for n in range(6000)]


def test_an_object_being_written_is_not_read_half(
    own_smb_server: SmbServer, transport: SmbTransport
) -> None:
    reads: list[object] = []

    def read() -> None:
        try:
            reads.append(len(transport.read("large")))
        except ShareUnreachable as told:
            reads.append(str(told))

    reading = once_it_has_bytes(own_smb_server.folder() / "large", read)
    transport.create("large", LARGE)
    reading.join()

    assert reads[0] == 96 * MIB or "somebody else has it open" in str(reads[0])
    assert transport.size("large") == 96 * MIB
