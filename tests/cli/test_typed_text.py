"""Text in and out in every encoding and form; files where secrets are expected, of every kind."""

import os
import subprocess
import sys
import threading
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from nacl import pwhash

from likeness.cli.running import main
from likeness.codec import slots, typed
from likeness.codec.slots import SlotKind
from likeness.errors import BadInput, WrongKey
from likeness.store.format.opening import add_slot
from likeness.store.keys.keyring import add_passphrase, open_with_passphrase
from tests.audit.conftest import Filled
from tests.cli.conftest import ROOT, Shell
from tests.cli.test_commands import key, one_sentence
from tests.unit.workshop import noise

SECRET = bytes(range(32))
WORDS = slots.as_words(SECRET).split()
NAME = "Büro – ✅ 東京"


def piped(shell: Shell, words: Sequence[object], data: bytes) -> "subprocess.CompletedProcess[str]":
    """A command that is given bytes instead of lines."""
    done = shell.given(data, *words)
    out, err = (text.decode(errors="replace") for text in (done.stdout, done.stderr))
    return subprocess.CompletedProcess(done.args, done.returncode, out, err)


# -- what terminals show -------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "koi8-r"])
def test_a_terminal_without_the_letters_of_a_name_shows_the_rest(
    filled: Filled, shell: Shell, encoding: str
) -> None:
    version = filled.workshop.back_up(noise("x", 64 * 1024), vm_name=NAME)
    shell.environment["PYTHONIOENCODING"] = encoding

    listed = piped(shell, ["list", *key(filled)], b"")
    shown = piped(shell, ["show", version.version, *key(filled)], b"")

    assert (listed.returncode, listed.stderr) == (0, "")
    assert version.version[:12] in listed.stdout
    assert shown.returncode == 0
    assert "\\u6771" in listed.stdout
    assert "\\u6771" in shown.stdout


def test_an_argument_that_is_no_text_is_told_in_a_sentence(shell: Shell) -> None:
    done = subprocess.run(
        [os.fsencode(sys.executable), b"-m", b"likeness", b"scrub", b"--store", b"/no\xff\xfe"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )

    assert done.returncode == 2
    assert "Traceback" not in done.stderr


# -- recovery words ------------------------------------------------------------------------------


def in_rows(words: Sequence[str], pattern: str, a_row: int = 4) -> str:
    each = [pattern.format(n, word) for n, word in enumerate(words, 1)]
    return "\n".join(" ".join(each[at : at + a_row]) for at in range(0, len(each), a_row))


PASTED = {
    "numbered": in_rows(WORDS, "{:2}. {:<12}"),
    "commas": ", ".join(WORDS) + ".",
    "a line each": in_rows(WORDS, "{0}) {1}", 1),
    "blank lines": "\n\n" + "\r\n\r\n".join(WORDS) + "\r\n",
    "four letters": " ".join(word[:4] for word in WORDS),
    "numbers that touch": in_rows(WORDS, "{0}{1};"),
    "wide letters": " ".join("".join(chr(ord(c) + 0xFEE0) for c in word) for word in WORDS),
    "unseen marks": "\ufeff" + "\u00a0\u200b".join(WORDS),
    "a table": in_rows(WORDS, "| {0:02d} | {1} |", 1),
}


@pytest.mark.parametrize("text", PASTED.values(), ids=PASTED.keys())
def test_words_are_taken_however_they_are_pasted(text: str) -> None:
    assert slots.from_words(text) == SECRET


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (" ".join([*WORDS[:6], "abandan", *WORDS[7:]]), "word 7, 'abandan'"),
        (" ".join([*WORDS[:6], "aba", *WORDS[7:]]), "word 7, 'aba'"),
        (" ".join(WORDS[:23]), "not 24 recovery words but 23"),
        ("1, 2, 3", "but 0"),
    ],
)
def test_words_that_are_wrong_are_told_by_their_number(text: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        slots.from_words(text)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("way", ["file", "pipe"])
def test_words_open_the_store_in_every_encoding(
    filled: Filled, shell: Shell, encoding: str, way: str
) -> None:
    text = in_rows(filled.workshop.words.split(), "{0}. {1}").replace("\n", "\r\n") + "\r\n"
    data = text.encode(encoding)
    paper = shell.folder / "words"
    paper.touch(mode=0o600)
    paper.write_bytes(data)
    by_file = ["--words-file", paper] if way == "file" else []

    done = piped(shell, ["list", "--store", filled.root, *by_file], data)

    assert done.returncode == 0, done.stderr


# -- passphrases ---------------------------------------------------------------------------------


@pytest.fixture
def quick_passphrases(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slot asks for little work; that it asks for much is looked at where slots are made."""
    monkeypatch.setattr(pwhash.argon2id, "OPSLIMIT_MODERATE", pwhash.argon2id.OPSLIMIT_MIN)
    monkeypatch.setattr(pwhash.argon2id, "MEMLIMIT_MODERATE", pwhash.argon2id.MEMLIMIT_MIN)


@pytest.mark.usefixtures("quick_passphrases")
def test_a_passphrase_opens_in_every_unicode_form_and_with_blanks_around_it(
    filled: Filled,
) -> None:
    passphrase = "Größe ﬁndet Öl 42"
    add_passphrase(filled.store, f" {passphrase} ")
    transport = filled.workshop.transport

    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        again = open_with_passphrase(transport, unicodedata.normalize(form, passphrase) + "\t")
        assert again.keys.master == filled.store.keys.master
    with pytest.raises(WrongKey):
        open_with_passphrase(transport, passphrase.lower())


@pytest.mark.usefixtures("quick_passphrases")
@pytest.mark.parametrize(
    "kept", [" seven horses below ", unicodedata.normalize("NFD", "sieben Äpfel")]
)
def test_a_passphrase_that_was_kept_as_it_was_typed_opens_still(filled: Filled, kept: str) -> None:
    add_slot(filled.store, kept.encode(), SlotKind.PASSPHRASE)

    typed_now = unicodedata.normalize("NFC", kept)

    opened = open_with_passphrase(filled.workshop.transport, typed_now)
    assert opened.keys.master == filled.store.keys.master


def test_a_plain_passphrase_is_tried_once() -> None:
    assert typed.passphrase_forms("seven horses") == (b"seven horses",)


def test_a_passphrase_of_blanks_is_too_short(filled: Filled, shell: Shell) -> None:
    blanks = "ab" + " " * 20
    done = shell.run("slots", "add-passphrase", *key(filled), typed=[blanks, blanks])

    assert done.returncode == 2
    assert "at least 12" in one_sentence(done)


@pytest.mark.parametrize("data", [b"\xff\xfa\xfb\n", b"x" * 5000 + b"\n", b"pass\0phrase\n"])
def test_what_is_no_line_of_text_is_no_passphrase(
    filled: Filled, shell: Shell, data: bytes
) -> None:
    shell.environment["PYTHONIOENCODING"] = "utf-8"

    done = piped(shell, ["list", "--store", filled.root, "--passphrase"], data)

    assert done.returncode == 2
    assert "run again" in one_sentence(done)


# -- files with secrets --------------------------------------------------------------------------


def a_file(path: Path, content: bytes = b"x", *, mode: int = 0o600, size: int = 0) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)
    path.chmod(mode)
    if size:
        os.truncate(path, size)


SPOILT: dict[str, Callable[[Path], None]] = {
    "a pipe nobody writes": lambda path: os.mkfifo(path, 0o600),
    "a folder": lambda path: path.mkdir(),
    "a link to itself": lambda path: path.symlink_to(path),
    "zeros without end": lambda path: path.symlink_to("/dev/zero"),
    "nothing": lambda path: path.symlink_to("/dev/null"),
    "missing": lambda _path: None,
    "empty": lambda path: a_file(path, b""),
    "no text": lambda path: a_file(path, b"\xff\x80\x81\0"),
    "40 GiB": lambda path: a_file(path, size=40 << 30),
    "for all to read": lambda path: a_file(path, mode=0o644),
}


def spoilt(folder: Path, how: str) -> Path:
    SPOILT[how](folder / "secret")
    return folder / "secret"


@pytest.mark.parametrize("option", ["--key-file", "--words-file", "--escrow-file"])
@pytest.mark.parametrize("how", SPOILT)
def test_whatever_is_in_the_place_of_a_secret_is_told_with_2(
    filled: Filled,
    shell: Shell,
    capsys: pytest.CaptureFixture[str],
    option: str,
    how: str,
) -> None:
    path = spoilt(shell.folder, how)

    code = main(["list", "--store", str(filled.root), option, str(path)])

    said = capsys.readouterr()
    assert code == 2
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert str(path) in said.err
    assert len(said.err.split()) < 40


@pytest.mark.parametrize("how", ["a pipe nobody writes", "40 GiB", "for all to read", "no text"])
def test_a_password_file_of_any_kind_is_told_with_2(
    shell: Shell, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    path = spoilt(shell.folder, how)
    share = ["--store", "smb://127.0.0.1:1/x", "--user", "u", "--password-file", str(path)]

    assert main(["scrub", *share]) == 2
    assert str(path) in capsys.readouterr().err


def test_a_pipe_that_somebody_writes_late_is_read(filled: Filled, shell: Shell) -> None:
    path = spoilt(shell.folder, "a pipe nobody writes")
    late = threading.Timer(0.7, path.write_text, [filled.workshop.words])
    late.start()

    done = shell.run("list", "--store", filled.root, "--words-file", path)

    late.join()
    assert done.returncode == 0, done.stderr


def test_a_key_file_with_the_line_end_of_windows_opens(filled: Filled, shell: Shell) -> None:
    path = shell.folder / "key"
    path.touch(mode=0o600)
    path.write_bytes(filled.workshop.key_file.read_bytes().replace(b"\n", b"\r\n"))

    assert shell.run("list", "--store", filled.root, "--key-file", path).returncode == 0


# -- standard streams and arguments --------------------------------------------------------------


def closed(command: str, filled: Filled, how: str) -> subprocess.CompletedProcess[str]:
    line = f"{sys.executable} -m likeness {command} --store {filled.root} {how}"
    return subprocess.run(
        ["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


def test_a_closed_standard_output_is_told_with_2(filled: Filled) -> None:
    done = closed("verify", filled, ">&-")

    assert done.returncode == 2
    assert "standard output is closed" in done.stderr


def test_a_closed_standard_input_gives_no_words(filled: Filled) -> None:
    done = closed("list", filled, "<&-")

    assert done.returncode == 2
    assert "standard input is closed" in done.stderr


def test_a_closed_standard_error_changes_nothing_of_the_answer(filled: Filled) -> None:
    done = closed("verify", filled, "2>&-")

    assert done.returncode == 0
    assert done.stdout.startswith("fine: ")


def test_a_restored_disk_never_takes_the_place_of_a_closed_stream(
    filled: Filled, shell: Shell, tmp_path: Path
) -> None:
    target = tmp_path / "disk.raw"
    version = filled.versions[0]
    keys = f"--key-file {filled.workshop.key_file} --to {target}"

    done = closed(f"restore {version.version} {keys}", filled, "<&- 2>&-")

    assert done.returncode == 0
    assert target.stat().st_size == version.record.disks[0].size_bytes


def test_help_that_nobody_reads_ends_quietly(filled: Filled) -> None:
    done = closed("list --help", filled, "2>&1 >/dev/full | cat")

    assert "Traceback" not in done.stdout
    assert "Exception ignored" not in done.stdout


@pytest.mark.parametrize(
    "words",
    [
        ["list", "--store", "/a\0b"],
        ["restore", "ab\0cd", "--store", "/a", "--to", "x"],
        ["restore", "abcd", "--store", "/a", "--to", "x\0y"],
        ["list", "--store", "/a", "--key-file", "k\0"],
        ["slots", "remove", "--store", "/a", "\0"],
    ],
)
def test_a_nul_in_any_argument_is_told_with_2(
    capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert main(words) == 2
    assert "NUL" in capsys.readouterr().err


def test_an_empty_place_is_not_the_folder_one_stands_in(shell: Shell, filled: Filled) -> None:
    shell.folder = filled.root

    done = shell.run("verify", "--store", "")

    assert done.returncode == 2
    assert "no place was named" in one_sentence(done)


@pytest.mark.parametrize("command", ["verify", "audit"])
@pytest.mark.parametrize("with_key", [True, False])
def test_the_fingerprint_of_another_store_is_always_damage(
    filled: Filled, shell: Shell, command: str, *, with_key: bool
) -> None:
    store = key(filled) if with_key else ["--store", str(filled.root)]
    right = filled.store.keys.public().fingerprint

    other = shell.run(command, *store, "--fingerprint", "00" * 16)
    same = shell.run(command, *store, "--fingerprint", right.upper().replace(" ", ":"))
    none = shell.run(command, *store, "--fingerprint", "0123")

    assert (other.returncode, same.returncode, none.returncode) == (1, 0, 2)
    assert "not the one given" in one_sentence(other)
    assert other.stdout == ""
