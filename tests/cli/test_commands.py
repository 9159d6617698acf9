"""Every command says what it found, or in one sentence why it could not look."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from likeness.codec import slots
from likeness.model.ids import VmId
from likeness.model.naming import disk_file_name
from likeness.store.format import layout
from tests.audit.conftest import Filled
from tests.cli.conftest import ROOT, Shell
from tests.unit.workshop import flipped, noise

PASSPHRASE = "seven horses under the bridge"


def key(filled: Filled) -> list[str]:
    return ["--store", str(filled.root), "--key-file", str(filled.workshop.key_file)]


def damage_a_pack(filled: Filled) -> str:
    name = filled.names(layout.PACKS)[0]
    path = filled.path(name)
    path.write_bytes(flipped(path.read_bytes(), path.stat().st_size // 2))
    return name


# Looking


def test_the_list_shows_every_version_newest_last(filled: Filled, shell: Shell) -> None:
    done = shell.run("list", *key(filled))

    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split()[:2] == ["VM", "VERSION"]
    assert len(lines) == 1 + len(filled.versions)
    for version in filled.versions:
        assert any(version.version[:12] in line and "512 KiB" in line for line in lines)


def test_the_list_can_be_narrowed_to_one_vm(filled: Filled, shell: Shell) -> None:
    one = filled.versions[1]
    done = shell.run("list", *key(filled), "--vm", one.vm[:10])

    assert [line.split()[1] for line in done.stdout.splitlines()[1:]] == [one.version[:12]]


def test_a_damaged_record_is_in_the_list_and_ends_it_with_1(filled: Filled, shell: Shell) -> None:
    name = filled.versions[0].name
    path = filled.path(name)
    path.write_bytes(path.read_bytes()[:-5])

    done = shell.run("list", *key(filled))

    assert done.returncode == 1
    assert f"{name}: damaged" in done.stdout
    assert filled.versions[1].version[:12] in done.stdout


def test_a_name_that_steers_a_terminal_is_shown_harmless(filled: Filled, shell: Shell) -> None:
    filled.workshop.back_up(noise("x", 64 * 1024), vm_name="web\x1b[2J\nforged line")

    done = shell.run("list", *key(filled))

    assert "\x1b" not in done.stdout
    assert "web\\x1b[2J\\nforged line" in done.stdout


def test_show_tells_the_disks_of_a_version(filled: Filled, shell: Shell) -> None:
    version = filled.versions[0]
    done = shell.run("show", version.version[:8], *key(filled))

    assert done.returncode == 0, done.stderr
    assert version.version in done.stdout
    assert "disk 0 (disk 0): 512 KiB, uuid " in done.stdout


def test_a_version_is_meant_by_words(filled: Filled, shell: Shell) -> None:
    last = filled.workshop.back_up(noise("words", 64 * 1024), vm_name="Berlin, web")

    shown = shell.run("show", "Berlin, web, last good", *key(filled))
    assert last.version in shown.stdout, shown.stderr
    early = shell.run("show", "Berlin, web, last good before 2001-01-01", *key(filled))
    assert (early.returncode, "has no version" in early.stderr) == (2, True)
    whose = shell.run("restore", "last good", "--to", "x.raw", *key(filled))
    assert (whose.returncode, "of which VM? name it" in whose.stderr) == (2, True)
    nobody = shell.run("show", "Berlin web, last good", *key(filled))
    assert "no VM 'Berlin web' has a version" in nobody.stderr


def test_a_renamed_vm_is_known_by_its_uuid(filled: Filled, shell: Shell) -> None:
    vm, other = VmId("e" * 32), VmId("f" * 32)
    old = filled.workshop.back_up(noise("x", 64 * 1024), vm=vm, vm_name="old name")
    new = filled.workshop.back_up(noise("y", 64 * 1024), vm=vm, vm_name="new name ")
    filled.workshop.back_up(noise("z", 64 * 1024), vm=other, vm_name="new name")

    for part in ("OLD", "eeeeeeee-eeee"):
        listed = shell.run("list", *key(filled), "--vm", part).stdout.splitlines()[1:]
        assert [
            version.version[:12] in line for version, line in zip((old, new), listed, strict=True)
        ]
        assert listed[0].endswith("eeeeeeee  was renamed to 'new name '")
        assert listed[1].startswith("'new name '")
        assert "renamed" not in listed[1]
    shown = shell.run("show", old.version.upper()[:16], *key(filled)).stdout
    assert "old name, was renamed to 'new name '" in shown


def test_a_disk_is_meant_by_its_position_its_name_or_its_uuid(filled: Filled, shell: Shell) -> None:
    version = filled.versions[0]
    (disk,) = version.record.disks
    (shell.folder / "here").mkdir()

    for number, wanted in enumerate(("0", disk.name, disk.uuid)):
        target = f"{number}.raw"
        words = ("restore", version.version, *key(filled), "--disk", wanted, "--to", target)
        assert shell.run(*words).returncode == 0
    named = shell.run("restore", version.version, *key(filled), "--to", "here")

    (path,) = (shell.folder / "here").iterdir()
    name = disk_file_name(version.record.vm_name, version.taken_at, disk.position)
    assert path.name == name
    assert f"here/{name} is whole" in named.stderr
    assert path.read_bytes() == (shell.folder / "0.raw").read_bytes()


def test_show_prints_the_configuration_as_it_was(filled: Filled, shell: Shell) -> None:
    done = shell.run("show", filled.versions[0].version, *key(filled), "--configuration")

    assert done.stdout == '{"memory": 1}\n'


def in_bash(command: str, filled: Filled, redirected: str) -> subprocess.CompletedProcess[str]:
    """A command of ours in a shell line, with its own exit code."""
    line = f"{sys.executable} -m likeness {command} {' '.join(key(filled))} {redirected}"
    return subprocess.run(
        ["bash", "-c", f"{line}; exit ${{PIPESTATUS[0]}}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_first_reader_to_hang_up_ends_the_output_quietly(filled: Filled, shell: Shell) -> None:
    done = in_bash("list", filled, "| true")

    assert done.stderr == ""


@pytest.mark.parametrize("command", ["audit", "verify", "prove"])
def test_a_check_whose_reader_hung_up_is_not_fine(
    filled: Filled, shell: Shell, command: str
) -> None:
    damage_a_pack(filled)

    done = in_bash(command, filled, "| true")

    assert done.returncode == 3
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("where", ["> /dev/full", "2>&1 | true"])
def test_what_cannot_be_said_is_not_said_to_be_damage(
    filled: Filled, shell: Shell, where: str
) -> None:
    done = in_bash("list", filled, where)

    assert done.returncode == 3
    if "full" in where:
        assert done.stderr == "likeness: No space left on device; see to that, then run again\n"


def test_a_place_that_cannot_be_is_told_in_a_sentence(filled: Filled, shell: Shell) -> None:
    place = "/" + "x" * 300

    done = shell.run("list", "--store", place, "--key-file", filled.workshop.key_file)

    assert done.returncode == 3
    assert done.stderr == f"likeness: {place}: File name too long; see to that, then run again\n"


@pytest.mark.needs("mount")
def test_a_full_scratch_folder_is_told_and_is_no_damage(
    filled: Filled, shell: Shell, tmp_path: Path
) -> None:
    if os.getuid() != 0:
        pytest.skip("not root: a small file system cannot be mounted")
    scratch = tmp_path / "small"
    scratch.mkdir()
    small = ["mount", "-t", "tmpfs", "-o", "size=4k,nr_inodes=8", "tmpfs", str(scratch)]
    subprocess.run(small, check=True)
    try:
        (scratch / "somebody's").write_bytes(bytes(4096))
        version = filled.versions[0].version[:12]
        target = tmp_path / "disk.raw"
        words = ("restore", version, *key(filled), "--to", target, "--scratch", scratch)
        done = shell.run(*words)
    finally:
        subprocess.run(["umount", "--lazy", str(scratch)], check=True)

    assert done.returncode == 3
    assert "No space left on device; see to that, then run again" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("disk.raw*"))


# Saying why not


def one_sentence(done: "subprocess.CompletedProcess[str]") -> str:
    assert "Traceback" not in done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("likeness: ")]
    assert len(said) == 1, done.stderr
    return said[0]


def test_a_wrong_key_is_told_with_2(filled: Filled, shell: Shell, tmp_path: Path) -> None:
    slots.write_key_file(tmp_path / "other.key", slots.fresh_secret())
    done = shell.run("list", "--store", filled.root, "--key-file", tmp_path / "other.key")

    assert done.returncode == 2
    assert "no slot" in one_sentence(done)


def test_mistyped_words_are_told_with_2_and_not_repeated(filled: Filled, shell: Shell) -> None:
    words = filled.workshop.words.split()
    done = shell.run("list", "--store", filled.root, typed=[" ".join([*words[1:], words[0]])])

    assert done.returncode == 2
    assert "24 recovery words" in one_sentence(done)
    assert words[5] + " " + words[6] not in done.stderr


def test_a_place_without_a_store_is_told_with_2(shell: Shell, tmp_path: Path) -> None:
    assert shell.run("scrub", "--store", tmp_path).returncode == 2
    assert shell.run("scrub", "--store", tmp_path / "nowhere").returncode == 2


def test_a_server_that_does_not_answer_is_told_with_3(shell: Shell, tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.touch(mode=0o600)
    secret.write_text("hidden")
    done = shell.run(
        "scrub", "--store", "smb://127.0.0.1:1/x/y", "--user", "u", "--password-file", secret
    )

    assert done.returncode == 3
    assert "hidden" not in one_sentence(done)


def test_an_account_in_the_address_is_refused_and_not_repeated(shell: Shell) -> None:
    done = shell.run("scrub", "--store", "smb://me:hidden@server/share")

    assert done.returncode == 2
    assert "hidden" not in one_sentence(done)


def test_a_share_without_an_account_is_told_with_2(shell: Shell) -> None:
    assert "--user" in one_sentence(shell.run("scrub", "--store", "smb://server/share"))


@pytest.mark.parametrize(
    "words", [[], ["nothing"], ["list"], ["restore", "abcd", "--store", "x"]], ids=str
)
def test_bad_use_is_told_with_2(shell: Shell, words: list[str]) -> None:
    done = shell.run(*words)

    assert done.returncode == 2
    assert "usage:" in done.stderr


def test_a_file_of_words_that_others_can_read_is_refused(
    filled: Filled, shell: Shell, tmp_path: Path
) -> None:
    paper = tmp_path / "words"
    paper.write_text(filled.workshop.words)
    paper.chmod(0o644)
    refused = shell.run("list", "--store", filled.root, "--words-file", paper)
    paper.chmod(0o600)
    done = shell.run("list", "--store", filled.root, "--words-file", paper)

    assert refused.returncode == 2
    assert "chmod 600" in one_sentence(refused)
    assert done.returncode == 0


@pytest.mark.parametrize("number", ["1", "2", "-1", "many", ""])
def test_a_disk_the_version_does_not_have_is_told_with_2(
    filled: Filled, shell: Shell, number: str
) -> None:
    done = shell.run(
        "restore", filled.versions[0].version, *key(filled), f"--disk={number}", "--to", "x"
    )

    assert done.returncode == 2
    assert f"has no disk '{number}'; it has 0 (disk 0)" in one_sentence(done)


def test_a_file_that_is_there_is_never_overwritten(filled: Filled, shell: Shell) -> None:
    (shell.folder / "disk.raw").write_text("precious")
    done = shell.run("restore", filled.versions[0].version, *key(filled), "--to", "disk.raw")

    assert done.returncode == 2
    assert (shell.folder / "disk.raw").read_text() == "precious"


def test_a_scratch_folder_that_is_not_there_is_told_and_leaves_nothing(
    filled: Filled, shell: Shell
) -> None:
    done = shell.run(
        "restore", filled.versions[0].version, *key(filled), "--to", "d", "--scratch", "/nowhere"
    )

    assert done.returncode == 2
    assert "--scratch" in one_sentence(done)
    assert list(shell.folder.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_command_says_so_and_ends_with_130(
    filled: Filled, shell: Shell, number: int
) -> None:
    running = subprocess.Popen(
        [sys.executable, "-m", "likeness", "list", "--store", str(filled.root)],
        cwd=shell.folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stderr is not None
    asked = ""
    while "Recovery words" not in asked:
        asked += running.stderr.read(1)
    time.sleep(0.1)
    running.send_signal(number)
    _, said = running.communicate(timeout=60)

    assert running.returncode == 130
    assert "stopped on request" in said
    assert "Traceback" not in said
