"""Every command says what it found, or in one sentence why it could not look."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from likeness.codec import slots
from likeness.codec.slots import SlotKind
from likeness.model.ids import VmId
from likeness.model.naming import disk_file_name
from likeness.store.format import layout
from likeness.store.format.opening import open_store, open_store_with_key_file
from likeness.store.write.heads import write_head
from likeness.transport.local import LocalTransport
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


# Checking


@pytest.mark.parametrize("command", ["audit", "scrub", "verify", "prove"])
def test_a_whole_store_is_fine(filled: Filled, shell: Shell, command: str) -> None:
    with_key = key(filled) if command == "prove" else ["--store", str(filled.root)]

    done = shell.run(command, *with_key)

    assert done.returncode == 0, done.stderr + done.stdout
    assert done.stdout.startswith("fine: ")


@pytest.mark.parametrize("command", ["scrub", "verify", "prove"])
def test_a_damaged_pack_is_named_and_ends_with_1(
    filled: Filled, shell: Shell, command: str
) -> None:
    name = damage_a_pack(filled)
    with_key = key(filled) if command == "prove" else ["--store", str(filled.root)]

    done = shell.run(command, *with_key)

    assert done.returncode == 1
    assert done.stdout.startswith(("damage: ", "spare lost: "))
    assert name in done.stdout
    assert "fine" not in done.stdout


def test_prove_names_the_versions_that_a_missing_pack_takes_away(
    filled: Filled, shell: Shell
) -> None:
    pack = next(iter(filled.workshop.packs_of(filled.versions[1])))
    filled.path(layout.pack(pack)).unlink()

    done = shell.run("prove", *key(filled))
    other = shell.run("prove", filled.versions[0].version, *key(filled))
    this = shell.run("prove", filled.versions[1].version, *key(filled))

    assert done.returncode == this.returncode == 1
    assert filled.versions[1].name in done.stdout
    assert filled.versions[0].name not in done.stdout
    assert other.returncode == 0, other.stdout


def test_packs_that_were_given_back_are_no_loss(filled: Filled, shell: Shell) -> None:
    workshop, disk = filled.workshop, noise("twin", 1 << 18)
    first = workshop.packs_of(workshop.back_up(disk, vm=VmId("c" * 32)))
    both = workshop.packs_of(workshop.back_up(disk, vm=VmId("d" * 32)))
    workshop.delete_redundant(both - first)

    done = shell.run("prove", *key(filled))

    assert both - first
    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith("fine: ")


def test_packs_that_could_not_be_proved_for_want_of_an_index_are_not_called_fine(
    filled: Filled, shell: Shell
) -> None:
    name = filled.names(layout.INDEX)[0]
    path = filled.path(name)
    path.write_bytes(flipped(path.read_bytes(), 60))

    done = shell.run("prove", *key(filled))

    assert done.returncode == 1
    assert f"spare lost: {name}" in done.stdout
    assert "fine" not in done.stdout


def test_audit_names_what_is_missing(filled: Filled, shell: Shell) -> None:
    name = filled.names(layout.PACKS)[0]
    filled.path(name).unlink()

    done = shell.run("audit", "--store", filled.root)

    assert done.returncode == 1
    assert f"damage: {name}: missing" in done.stdout


def test_an_uncommitted_tail_is_a_notice_and_no_damage(filled: Filled, shell: Shell) -> None:
    torn = filled.workshop.back_up(noise("tail", 64 * 1024))
    path = filled.path(torn.name)
    path.write_bytes(path.read_bytes()[:64])

    done = shell.run("verify", "--store", filled.root)

    assert done.returncode == 0, done.stdout
    assert "notice: " in done.stdout


def test_verify_finds_a_store_that_was_set_back(
    filled: Filled, shell: Shell, tmp_path: Path
) -> None:
    shutil.copytree(filled.root, tmp_path / "kept")
    filled.workshop.back_up(noise("newer", 64 * 1024))
    head_state = write_head(filled.store, clock=filled.workshop.clock)

    head = ["--head", head_state.number, head_state.digest[:8]]
    now = shell.run("verify", "--store", filled.root, *head)
    back = shell.run("verify", "--store", tmp_path / "kept", *head)

    assert now.returncode == 0, now.stdout
    assert back.returncode == 1
    assert "set back" in back.stdout


def test_verify_refuses_a_wrong_fingerprint(filled: Filled, shell: Shell) -> None:
    done = shell.run("verify", "--store", filled.root, "--fingerprint", "00" * 16)

    assert done.returncode == 1
    assert "not the one given" in done.stderr


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


# Making stores and keys


def typed_at_creation(shell: Shell, root: Path, key_file: Path, *, answer: str) -> tuple[str, int]:
    """Create a store as a person does: read the words from the screen, then answer."""
    running = subprocess.Popen(
        [
            *(sys.executable, "-m", "likeness", "create"),
            *("--store", str(root), "--key-file", str(key_file)),
        ],
        cwd=shell.folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stderr is not None
    shown = ""
    while "Type them back" not in shown:
        shown += running.stderr.read(1)
    words = " ".join(re.findall(r"\d+\. ([a-z]+)", shown))
    out, _ = running.communicate((answer or words) + "\n", timeout=60)
    return out, running.returncode


def test_a_store_is_made_once_its_words_were_typed_back(shell: Shell, tmp_path: Path) -> None:
    root, key_file = tmp_path / "new", tmp_path / "new.key"

    sheet, code = typed_at_creation(shell, root, key_file, answer="")

    assert code == 0
    store = open_store_with_key_file(LocalTransport(root), key_file)
    assert store.keys.public().fingerprint in sheet
    assert store.store_id in sheet
    words = " ".join(re.findall(r"\d+\. ([a-z]+)", sheet))
    opened = open_store(LocalTransport(root), slots.from_words(words), SlotKind.RECOVERY_WORDS)
    assert opened.keys.master == store.keys.master
    assert shell.run("verify", "--store", root).stdout.startswith("fine")


def test_words_that_were_not_typed_back_make_no_store(shell: Shell, tmp_path: Path) -> None:
    root, key_file = tmp_path / "new", tmp_path / "new.key"
    other = slots.as_words(slots.fresh_secret())

    _, code = typed_at_creation(shell, root, key_file, answer=other)

    assert code == 2
    assert list(root.iterdir()) == []
    assert not key_file.exists()


def test_no_store_is_made_over_another(filled: Filled, shell: Shell, tmp_path: Path) -> None:
    done = shell.run("create", "--store", filled.root, "--key-file", tmp_path / "new.key")

    assert done.returncode == 2
    assert "already" in one_sentence(done)
    assert not (tmp_path / "new.key").exists()


def test_a_passphrase_is_added_used_and_taken_away(filled: Filled, shell: Shell) -> None:
    added = shell.run("slots", "add-passphrase", *key(filled), typed=[PASSPHRASE, PASSPHRASE])
    assert added.returncode == 0, added.stderr
    name = added.stderr.split()[-1]
    place = ["--store", filled.root, "--passphrase"]
    assert f"{name}  passphrase" in shell.run("slots", "list", *key(filled)).stdout
    assert shell.run("list", *place, typed=[PASSPHRASE]).returncode == 0
    assert shell.run("audit", "--store", filled.root).stdout.startswith("fine")

    assert shell.run("slots", "remove", name, *key(filled)).returncode == 0

    assert shell.run("list", *place, typed=[PASSPHRASE]).returncode == 2
    assert shell.run("audit", "--store", filled.root).stdout.startswith("fine")


def test_a_passphrase_typed_in_two_ways_is_not_taken(filled: Filled, shell: Shell) -> None:
    before = filled.names(layout.KEYS)
    done = shell.run("slots", "add-passphrase", *key(filled), typed=[PASSPHRASE, PASSPHRASE[1:]])

    assert done.returncode == 2
    assert "differ" in one_sentence(done)
    assert filled.names(layout.KEYS) == before


def test_an_escrow_key_from_the_safe_opens_the_store(filled: Filled, shell: Shell) -> None:
    made = shell.run("escrow-key", "--to", "safe.key")
    added = shell.run("slots", "add-escrow", made.stdout.strip(), *key(filled))
    wrong = shell.run("slots", "add-escrow", "xyz", *key(filled))

    done = shell.run("list", "--store", filled.root, "--escrow-file", "safe.key")

    assert made.returncode == added.returncode == 0, made.stderr + added.stderr
    assert (shell.folder / "safe.key").stat().st_mode & 0o077 == 0
    assert done.returncode == 0, done.stderr
    assert wrong.returncode == 2


def test_the_last_slot_stays(filled: Filled, shell: Shell) -> None:
    first, second = (n for n in filled.names(layout.KEYS) if "/slot-" in n)
    kinds = shell.run("slots", "list", *key(filled)).stdout
    words = first if f"{first}  recovery words" in kinds else second
    assert shell.run("slots", "remove", words, *key(filled)).returncode == 0

    (left,) = (n for n in filled.names(layout.KEYS) if "/slot-" in n)
    done = shell.run("slots", "remove", left, *key(filled))

    assert done.returncode == 2
    assert "last key slot" in one_sentence(done)


def test_the_sheet_has_words_only_when_they_are_new(filled: Filled, shell: Shell) -> None:
    plain = shell.run("sheet", *key(filled)).stdout
    fresh = shell.run("sheet", *key(filled), "--new-words").stdout
    words = " ".join(re.findall(r"\d+\. ([a-z]+)", fresh))

    assert filled.store.keys.public().fingerprint in plain
    assert re.findall(r"\d+\. ([a-z]+)", plain) == []
    assert shell.run("list", "--store", filled.root, typed=[words]).returncode == 0
    assert shell.run("list", "--store", filled.root, typed=[filled.workshop.words]).returncode == 0


def test_a_new_epoch_changes_the_fingerprint_and_keeps_everything(
    filled: Filled, shell: Shell
) -> None:
    before = shell.run("epoch", "show", *key(filled)).stdout
    begun = shell.run("epoch", "begin", *key(filled))
    after = shell.run("epoch", "show", *key(filled)).stdout
    checked = shell.run(
        "verify", "--store", filled.root, "--fingerprint", after.partition("fingerprint ")[2]
    )

    assert begun.returncode == 0, begun.stderr
    assert before.startswith("epoch 1, ")
    assert after == begun.stdout
    assert after.startswith("epoch 2, ")
    assert before.split()[-1] != after.split()[-1]
    assert checked.returncode == 0, checked.stdout
    assert shell.run("prove", *key(filled)).returncode == 0


def test_lost_public_keys_are_written_anew(filled: Filled, shell: Shell) -> None:
    filled.path(layout.public_keys(1)).unlink()
    assert shell.run("audit", *key(filled)).returncode == 1

    done = shell.run("epoch", "renew", *key(filled))

    assert layout.public_keys(1) in done.stderr
    assert shell.run("verify", "--store", filled.root).returncode == 0
