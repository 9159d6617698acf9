"""Recipes of the guide, tried: units, PostgreSQL under Prefect, TLS and a login before it."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from cryptography.fernet import Fernet

from lab.pool import Pool
from lab.serving import LabServer
from lab.settings import Settings
from tests.flows.installation import ROOT, Installation, free_port
from tests.flows.scene import MIB, QUICK, image, noise
from tests.flows.waiting import wait_until
from tests.torture.test_operator_day import PASSWORD, job, start_deployed

pytestmark = [
    pytest.mark.torture,
    pytest.mark.prefect,
    pytest.mark.lab,
    pytest.mark.timeout(900),
]
INSTALL = (ROOT / "docs/install.md").read_text()
SECURITY = (ROOT / "docs/security.md").read_text()
LOGIN = "admin:a-login-of-the-tests"
POSTGRES = Path("/usr/lib/postgresql")


@pytest.fixture
def lab(tmp_path: Path) -> Generator[LabServer, None, None]:
    pool = Pool(Settings(**QUICK, password=PASSWORD))
    pool.add_vm("web", [image(tmp_path, "web", noise("web", 2 * MIB))])
    with LabServer(pool) as server:
        yield server


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    for name in ("store", "vault", "here", "owner"):
        (tmp_path / name).mkdir()
    return Installation(tmp_path / "owner")


@contextmanager
def backed_up_and_green(made: Installation, lab: LabServer) -> Generator[None, None, None]:
    """Start all of it: a job by its deployment, and the validation that its event starts."""
    try:
        start_deployed(made, lab)
        made.start_worker()
        run = made.run("backup-job/nightly", job("nightly", "web"))
        assert made.ended(run)["name"] == "Completed"
        wait_until(lambda: made.runs_of("validate"), "the event starts a validation")
        (validation,) = made.runs_of("validate")
        assert made.ended(validation["id"])["name"] == "Completed"
        table = json.loads(made.artifact("versions")["data"])
        assert [(row["VM"], row["verdict"]) for row in table] == [("web", "✅")]
        yield
    finally:
        made.stop()
    assert made.errors_of_the_server() == []


@pytest.mark.needs("systemd-analyze")
def test_the_units_of_the_guide_are_units(tmp_path: Path) -> None:
    units = re.findall(r"`/etc/systemd/system/(.*?)`:\n\n```ini\n(.*?)```", INSTALL, re.S)
    assert [name for name, _ in units] == ["likeness-server.service", "likeness-worker.service"]
    for name, text in units:
        assert "/opt/likeness/.venv/bin/prefect" in text
        (tmp_path / name).write_text(text.replace("/opt/likeness/.venv", str(ROOT / ".venv")))
        words = text.partition("ExecStart=/opt/likeness/.venv/bin/")[2].splitlines()[0].split()
        said = subprocess.run(
            [str(ROOT / ".venv/bin" / words[0]), *words[1:3], "--help"],
            capture_output=True,
            check=True,
            timeout=120,
        ).stdout.decode()
        assert all(each in said for each in words if each.startswith("--"))

    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / name) for name, _ in units)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@contextmanager
def postgres() -> Generator[int, None, None]:
    """A server of PostgreSQL with an empty database `prefect`; its port.

    It refuses to be root, and nobody else may look into folders of pytest.
    """
    with TemporaryDirectory(prefix="likeness-tests-postgres-") as folder:
        yield from _postgres_in(Path(folder))


def _postgres_in(data: Path) -> Generator[int, None, None]:
    (programs,) = sorted(POSTGRES.glob("*/bin"))[-1:]
    port = free_port()
    as_nobody = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    before = as_nobody if os.geteuid() == 0 else []
    if before:
        shutil.chown(data, "postgres", "postgres")

    def call(program: str, *words: str) -> None:
        subprocess.run(
            [*before, str(programs / program), *words],
            cwd="/",
            check=True,
            capture_output=True,
            timeout=120,
        )

    call("initdb", "-D", str(data / "db"), "-U", "prefect", "--auth=trust", "--no-sync")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={data}"
    call("pg_ctl", "-D", str(data / "db"), "-o", options, "-l", str(data / "log"), "-w", "start")
    try:
        call("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "prefect", "prefect")
        yield port
    finally:
        call("pg_ctl", "-D", str(data / "db"), "-m", "fast", "-w", "stop")


@pytest.mark.skipif(not POSTGRES.is_dir(), reason="Debian's PostgreSQL is not installed")
def test_prefect_on_postgresql_backs_up_and_validates(
    installation: Installation, lab: LabServer
) -> None:
    (line,) = re.findall(r"^PREFECT_API_DATABASE_CONNECTION_URL=(.*)$", INSTALL, re.M)

    with postgres() as port:
        address = line.replace("@127.0.0.1/", f"@127.0.0.1:{port}/")
        installation.environment |= {
            "PREFECT_API_DATABASE_CONNECTION_URL": address,
            "PREFECT_LOGGING_HANDLERS_CONSOLE_FORMATTER": "json",
        }
        with backed_up_and_green(installation, lab):
            pass

    assert not (installation.folder / "prefect" / "prefect.db").exists()
    lines = (installation.folder / "worker.log").read_text().splitlines()
    ours = [json.loads(line) for line in lines if "snapshot of" in line]
    assert [each["args"][0] for each in ours] == ["web"]


@contextmanager
def proxy(folder: Path, behind: int, outside: int) -> Generator[Path, None, None]:
    """The guide's proxy, with a certificate of its own; where that is."""
    (server,) = re.findall(r"```nginx\n(.*?)```", SECURITY, re.S)
    certificate, key = folder / "backup.pem", folder / "backup.key"
    subprocess.run(
        f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext"
        f" subjectAltName=IP:127.0.0.1 -keyout {key} -out {certificate}".split(),
        check=True,
        capture_output=True,
    )
    for was, now in {
        "listen 443 ssl": f"listen 127.0.0.1:{outside} ssl",
        "/etc/ssl/backup.pem": str(certificate),
        "/etc/ssl/backup.key": str(key),
        "127.0.0.1:4200": f"127.0.0.1:{behind}",
    }.items():
        assert was in server
        server = server.replace(was, now)
    user = "user root;" if os.geteuid() == 0 else ""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    kept = " ".join(f"{kind}_temp_path {folder}/nginx-{kind};" for kind in kinds)
    path = folder / "nginx.conf"
    path.write_text(
        f"{user} daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.log;\n"
        f"events {{}}\nhttp {{ access_log off; {kept}\n{server}\n}}\n"
    )
    nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    process = subprocess.Popen([str(nginx), "-e", f"{folder}/nginx.log", "-c", str(path)])
    try:
        yield certificate
    finally:
        process.terminate()
        process.wait(timeout=20)


@pytest.mark.needs("nginx", "openssl")
def test_behind_tls_and_a_login_it_backs_up_and_validates(
    installation: Installation, lab: LabServer, tmp_path: Path
) -> None:
    with proxy(tmp_path, installation.port, outside := free_port()) as certificate:
        installation.environment |= {
            "PREFECT_SERVER_API_AUTH_STRING": LOGIN,
            "PREFECT_API_AUTH_STRING": LOGIN,
            "PREFECT_API_URL": f"https://127.0.0.1:{outside}/api",
            "PREFECT_API_SSL_CERT_FILE": str(certificate),
            "PREFECT_SERVER_ENCRYPTION_KEY": Fernet.generate_key().decode(),
        }
        installation.login = LOGIN
        with backed_up_and_green(installation, lab):
            looked = {each["about"]: each["state"] for each in doctor(installation)}
    assert [looked[about] for about in ("Prefect server", "API login")] == ["well", "well"]
    assert "API connection" not in looked


def doctor(installation: Installation) -> list[dict[str, str]]:
    """What it finds."""
    said = subprocess.run(
        [sys.executable, "-m", "likeness", "doctor", "--json"],
        cwd=ROOT,
        env=installation.environment,
        capture_output=True,
        timeout=120,
        check=False,
    )
    found: list[dict[str, str]] = json.loads(said.stdout)
    return found
