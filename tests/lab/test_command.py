"""The lab as a program: the ready line, the guest writing, and leaving nothing."""

import json
import os
import signal
import ssl
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.lab.clients import JsonClient, Refused

ROOT = Path(__file__).parents[2]


@contextmanager
def running(
    *arguments: str, **variables: str
) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "lab", "serve", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **variables},
    )
    assert process.stdout is not None
    try:
        yield process, json.loads(process.stdout.readline())
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()


def lab_command(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lab", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **variables},
    )


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(b"original" * 1000)
    return path


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_one_line_serves_and_leaves_nothing(
    image: Path, tmp_path: Path, number: signal.Signals
) -> None:
    state, scratch = tmp_path / "state", tmp_path / "scratch"
    scratch.mkdir()
    with running(
        "--vm", f"web={image}", "--halted", f"cold={image},{image}", "--state", str(state),
        TMPDIR=str(scratch),
    ) as (process, known):  # fmt: skip
        assert known.keys() >= {"url", "username", "password", "control", "vms"}
        client = JsonClient(known["url"])
        client.log_in(known["username"], known["password"])
        vm = client("VM.get_by_uuid", known["vms"]["web"])
        assert client("VM.get_power_state", vm) == "Running"
        cold = client("VM.get_by_uuid", known["vms"]["cold"])
        assert client("VM.get_power_state", cold) == "Halted"
        assert len(client("VM.get_VBDs", cold)) == 2
        assert stat.S_IMODE((state / "lab.json").stat().st_mode) == 0o600

        data = tmp_path / "data"
        data.write_bytes(b"GUEST")
        told = lab_command(
            "write",
            "web",
            "--disk",
            "0",
            "--offset",
            "8",
            "--file",
            str(data),
            "--state",
            str(state),
        )
        assert (told.returncode, told.stdout) == (0, "5 bytes written\n")
        request = urllib.request.Request(known["control"] + "/read?vm=web&offset=0&length=16")
        request.add_header("x-lab-token", known["control_token"])
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert answer.read() == b"originalGUESTnal"
        process.send_signal(number)
        assert process.wait(30) == 0
    assert image.read_bytes() == b"original" * 1000
    assert list(state.iterdir()) == []
    assert list(scratch.iterdir()) == []


def test_the_password_comes_from_where_it_is_told(image: Path, tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("from-a-file\n")
    with running("--vm", f"web={image}", LAB_PASSWORD="from-a-variable") as (_, known):
        assert known["password"] == "from-a-variable"
    with running("--vm", f"web={image}", "--password-file", str(secret)) as (_, known):
        assert known["password"] == "from-a-file"
    with running() as (_, first), running() as (_, second):
        assert first["password"] != second["password"]


def test_times_can_be_set(image: Path) -> None:
    with running("--vm", f"web={image}", "--set", "session_idle_seconds=0") as (_, known):
        client = JsonClient(known["url"])
        client.log_in(known["username"], known["password"])
        with pytest.raises(Refused, match="SESSION_INVALID"):
            client("VM.get_all")
    assert "is no setting" in lab_command("serve", "--set", "nonsense=1").stderr


def test_tls_and_nbd_can_be_switched_on(image: Path) -> None:
    with running("--vm", f"web={image}", "--tls", "--nbd", "nbd", "--hosts", "2") as (_, known):
        assert known["url"].startswith("https://127.0.0.1:")
        assert known["nbd_port"] > 0
        trust = "".join(known["certificates"])
        call = {"method": "session.login_with_password", "id": 1}
        call["params"] = [known["username"], known["password"]]
        with urllib.request.urlopen(
            known["url"] + "/jsonrpc",
            json.dumps(call).encode(),
            timeout=30,
            context=ssl.create_default_context(cadata=trust),
        ) as answer:
            assert json.loads(answer.read())["result"].startswith("OpaqueRef:")


def test_bad_input_gets_a_sentence(image: Path, tmp_path: Path) -> None:
    lost = lab_command("serve", "--vm", "web=/no/such/disk")
    assert lost.returncode == 2
    assert "the disk /no/such/disk of web is not a file" in lost.stderr
    assert "NAME=DISK" in lab_command("serve", "--vm", "web").stderr
    alone = lab_command("write", "web", "--file", str(image), "--state", str(tmp_path))
    assert alone.returncode == 1
    assert "no lab runs with --state" in alone.stderr
    with running("--vm", f"web={image}", "--state", str(tmp_path / "s")) as (_, known):
        for arguments, words in (
            (("nobody",), "0 VMs are called nobody"),
            (("web", "--disk", "3"), "none of number 3"),
            (("web", "--offset", "7999"), "do not fit"),
        ):
            told = lab_command(
                "write", *arguments, "--file", str(image), LAB_STATE=str(tmp_path / "s")
            )
            assert told.returncode == 1
            assert words in told.stderr
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(known["control"] + "/counters", timeout=30)


def test_memory_stays_small_whatever_the_size_of_the_disk(tmp_path: Path) -> None:
    huge = tmp_path / "huge.raw"
    with huge.open("wb") as file:
        file.truncate(1 << 43)
    with running("--vm", f"web={huge}") as (process, known):
        client = JsonClient(known["url"])
        client.log_in(known["username"], known["password"])
        vm = client("VM.get_by_uuid", known["vms"]["web"])
        client("VM.snapshot", vm, "s")
        status = Path(f"/proc/{process.pid}/status").read_text()
        resident = int(status.split("VmRSS:")[1].split()[0])
        assert resident < 150_000
