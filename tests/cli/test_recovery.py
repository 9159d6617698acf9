"""The page on recovery says what to type; typed like that, it gets the data back."""

import re
import shlex
import shutil
from collections.abc import Generator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest

from likeness.store.write.heads import write_head
from tests.audit.conftest import SIZE, Filled
from tests.cli.conftest import ROOT, Shell
from tests.smb.server import SmbServer
from tests.unit.workshop import Workshop, noise

PAGE = (ROOT / "docs" / "recovery.md").read_text()
SHARE, FOLDER = "smb://nas.example/backups/likeness", "/mnt/backups/likeness"


def documented(command: str, place: str) -> str:
    """The line of the page that shows a command for a place."""
    lines = [
        line
        for line in PAGE.splitlines()
        if line.startswith(f"python -m likeness {command} ") and place in line
    ]
    assert len(lines) == 1, f"the page shows {command} for {place} {len(lines)} times"
    return lines[0].removeprefix("python -m likeness ")


def filled_in(line: str, **real: str) -> list[str]:
    """A documented line with its examples replaced by what is real."""
    for example, value in real.items():
        assert EXAMPLES[example] in line, f"the page's line lacks {EXAMPLES[example]}"
        line = line.replace(EXAMPLES[example], shlex.quote(value))
    return shlex.split(line)


EXAMPLES = {
    "share": SHARE,
    "folder": FOLDER,
    "user": "backup-reader",
    "version": "VERSION",
    "fingerprint": '"0123 4567 89ab cdef 0123 4567 89ab cdef"',
}


@pytest.fixture(scope="module")
def server() -> Generator[SmbServer, None, None]:
    server = SmbServer()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.mark.smb
def test_the_documented_command_restores_from_a_share_with_the_recovery_words(
    server: SmbServer, shell: Shell, tmp_path: Path
) -> None:
    transport = server.transport("ads", path="backups/likeness")
    workshop = Workshop(tmp_path, transport=transport)
    version = workshop.back_up(noise("disk", SIZE))
    write_head(workshop.store, clock=workshop.clock)
    workshop.key_file.unlink()  # the installation is gone
    real = {
        "share": f"smb://127.0.0.1:{server.port}/ads/backups/likeness",
        "user": server.username,
    }
    typed = [server.password, workshop.words]

    listed = shell.run(*filled_in(documented("list", SHARE), **real), typed=typed)
    restored = shell.run(
        *filled_in(documented("restore", SHARE), version=version.version[:4], **real),
        typed=typed,
    )

    place = ["--store", real["share"], "--user", server.username]
    for check in ("audit", "scrub", "verify"):
        checked = shell.run(check, *place, typed=typed[:1])
        assert checked.stdout.startswith("fine"), checked.stderr

    assert listed.returncode == 0, listed.stderr
    assert version.version[:12] in listed.stdout
    assert restored.returncode == 0, restored.stderr
    assert (shell.folder / "disk.raw").read_bytes() == noise("disk", SIZE)
    for said in (listed, restored):
        assert server.password not in said.stdout + said.stderr
        assert workshop.words not in said.stdout + said.stderr


def test_the_documented_command_restores_from_a_folder_with_the_recovery_words(
    filled: Filled, shell: Shell
) -> None:
    filled.workshop.key_file.unlink()
    line = documented("restore", FOLDER)
    for number, version in enumerate(filled.versions):
        words = filled_in(line, folder=str(filled.root), version=version.version[:6])
        done = shell.run(*words, typed=[filled.workshop.words.upper().replace(" ", "  ")])

        assert done.returncode == 0, done.stderr
        image = (shell.folder / "disk.raw").rename(shell.folder / f"{number}.raw")
        assert image.read_bytes() == filled.workshop.restore(version)
        assert image.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(("command", "asks"), [("list", True), ("show", True), ("verify", False)])
def test_the_other_documented_commands_work_as_shown(
    filled: Filled, shell: Shell, command: str, *, asks: bool
) -> None:
    real = {"folder": str(filled.root)}
    if command == "show":
        real["version"] = filled.versions[0].version
    if command == "verify":
        real["fingerprint"] = filled.store.keys.public().fingerprint
    line = documented(command, FOLDER)

    done = shell.run(*filled_in(line, **real), typed=[filled.workshop.words] if asks else [])

    assert done.returncode == 0, done.stderr


def _modules_imported(filled: Filled, shell: Shell) -> set[str]:
    """Top-level modules that the documented restore loads, as the interpreter itself tells."""
    shell.environment["PYTHONPROFILEIMPORTTIME"] = "1"
    line = documented("restore", FOLDER)
    words = filled_in(line, folder=str(filled.root), version=filled.versions[0].version[:4])
    done = shell.run(*words, typed=[filled.workshop.words])
    assert done.returncode == 0, done.stderr
    told = re.findall(r"^import time:.*\|\s*([A-Za-z0-9_.]+)$", done.stderr, re.MULTILINE)
    return {name.partition(".")[0] for name in told}


def test_a_restore_loads_neither_prefect_nor_duckdb(filled: Filled, shell: Shell) -> None:
    loaded = _modules_imported(filled, shell)

    assert "nacl" in loaded
    assert loaded.isdisjoint({"prefect", "duckdb", "XenAPI", "pydantic", "asyncssh", "fastapi"})


def test_what_the_page_has_installed_is_enough(filled: Filled, shell: Shell) -> None:
    (line,) = re.findall(r"^pip install (blake3 .*)$", PAGE, re.MULTILINE)
    installed: set[str] = set()
    todo = line.lower().split()
    while todo:
        name = todo.pop().lower().replace("_", "-")
        if name not in installed:
            installed.add(name)
            with suppress(PackageNotFoundError):  # needed on other systems only
                needed = [text for text in requires(name) or () if "extra ==" not in text]
                todo += [re.split(r"[^A-Za-z0-9._-]", text)[0] for text in needed]

    found = packages_distributions()
    loaded = _modules_imported(filled, shell) - {"likeness", "_distutils_hack"}
    from_packages = {name: set(found[name]) for name in loaded if name in found}

    lacking = {
        module
        for module, names in from_packages.items()
        if installed.isdisjoint(name.lower().replace("_", "-") for name in names)
    }
    assert lacking == set()


def test_nothing_is_written_to_the_store_by_a_restore(filled: Filled, shell: Shell) -> None:
    before = {name: filled.path(name).read_bytes() for name in filled.names("")}
    line = documented("restore", FOLDER)
    words = filled_in(line, folder=str(filled.root), version=filled.versions[0].version)
    shell.run(*words, typed=[filled.workshop.words])

    assert {name: filled.path(name).read_bytes() for name in filled.names("")} == before


def test_data_that_is_lost_is_named_and_leaves_no_image(filled: Filled, shell: Shell) -> None:
    shutil.rmtree(filled.path("packs"))
    line = documented("restore", FOLDER)
    words = filled_in(line, folder=str(filled.root), version=filled.versions[0].version)

    done = shell.run(*words, typed=[filled.workshop.words])

    assert done.returncode == 1
    assert f"{SIZE} bytes in 1 ranges, the first at byte 0" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(shell.folder.iterdir()) == []
