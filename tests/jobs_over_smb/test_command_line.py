"""The command line over a share, with the password in a file as a scheduled check has it."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Shell
from tests.jobs_over_smb.walk import FIRST, SECOND, Job
from tests.smb.server import SmbServer

pytestmark = pytest.mark.smb

JobMaker = Callable[..., Job]


def test_a_share_is_listed_audited_proved_and_restored_without_anybody_typing(
    server: SmbServer, make_job: JobMaker, tmp_path: Path
) -> None:
    job = make_job()
    shell = Shell(tmp_path / "shell")
    shell.folder.mkdir()
    password = shell.folder / "password"
    password.write_text(server.password + "\n")
    password.chmod(0o600)
    place = ["--store", f"smb://127.0.0.1:{server.port}/ads/{job.path}"]
    place += ["--user", server.username, "--password-file", str(password)]
    key = ["--key-file", str(job.workshop.key_file)]

    def run(command: str, *words: object) -> "subprocess.CompletedProcess[str]":
        done = shell.run(command, *place, *key, *words)
        assert done.returncode == 0, done.stderr
        assert server.password not in done.stdout + done.stderr
        return done

    listed = run("list").stdout
    for number, ((version, _), disk) in enumerate(zip(job.known, (FIRST, SECOND), strict=True)):
        assert version.version[:12] in listed
        image = shell.folder / f"{number}.raw"
        run("restore", version.version[:8], "--to", image)
        assert image.read_bytes() == disk
    assert run("audit").stdout.startswith("fine")
    assert run("prove").stdout.startswith("fine")


def test_a_wrong_password_and_a_silent_server_are_told_in_a_sentence(
    server: SmbServer, make_job: JobMaker, tmp_path: Path
) -> None:
    job = make_job()
    shell = Shell(tmp_path / "shell")
    shell.folder.mkdir()
    password = shell.folder / "password"
    password.write_text("not-the-password\n")
    password.chmod(0o600)
    words = ["list", "--store", f"smb://127.0.0.1:{server.port}/ads/{job.path}"]
    words += ["--user", server.username, "--password-file", str(password)]
    words += ["--key-file", str(job.workshop.key_file)]

    wrong = shell.run(*words)
    password.write_text(server.password)
    server.kill()
    away = shell.run(*words)

    assert wrong.returncode == 3
    assert "does not accept the account" in wrong.stderr
    assert away.returncode == 3
    assert "check that the server is up and reachable from here" in away.stderr
    for done in (wrong, away):
        assert "Traceback" not in done.stderr
        assert "not-the-password" not in done.stdout + done.stderr
