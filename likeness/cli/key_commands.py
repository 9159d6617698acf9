"""Commands about what opens a store."""

from pathlib import Path

from likeness.cli.opening import opened, transport_of
from likeness.cli.options import Options
from likeness.cli.terminal import ask_secret, ask_words, say, tell
from likeness.clock import system_clock
from likeness.codec import slots as codec_slots
from likeness.codec.aead import Suite
from likeness.codec.typed import passphrase_bytes
from likeness.errors import BadInput
from likeness.stopping import StopToken
from likeness.store.format.data_store import DataStore
from likeness.store.format.opening import create_store
from likeness.store.format.vault_file import write_vault_file
from likeness.store.keys.keyring import (
    SHORTEST_PASSPHRASE,
    add_escrow,
    add_key_file,
    add_passphrase,
    add_recovery_words,
    begin_epoch,
    list_slots,
    remove_slot,
    renew_public_keys,
)
from likeness.store.keys.recovery_sheet import recovery_sheet
from likeness.store.write.heads import write_head
from likeness.store.write.needs_listing import begin_needs_lists, make_vault_file

SLOT_ACTIONS = (*("list", "add-passphrase", "add-words", "add-key-file", "add-escrow", "remove"),)
_ATTEMPTS = 3


def create(options: Options, _stop: StopToken) -> int:
    """Make a store; its recovery words must be typed back before anything is written."""
    transport = transport_of(options, make=True)
    passphrase = _new_passphrase() if options.with_passphrase else None
    made = create_store(
        transport,
        key_file=options.key_file.absolute(),
        clock=system_clock,
        passphrase=passphrase,
        chunk_bytes=options.chunk_kib << 10,
        suite=Suite.XCHACHA20_POLY1305 if options.xchacha else Suite.AEGIS_256,
        confirm_words=_typed_back,
    )
    write_head(made.store, clock=system_clock)
    say(_sheet(made.store, options.store, made.recovery_words))
    tell(f"the key file is {options.key_file}; back it up apart from the data store")
    return 0


def slots(options: Options, _stop: StopToken) -> int:
    """List, add or remove key slots."""
    store = opened(options)
    if options.action == "list":
        for slot in list_slots(store):
            say(f"{slot.name}  {slot.kind or 'damaged: ' + slot.problem}")
        return 0
    if options.action == "add-passphrase":
        name = add_passphrase(store, _new_passphrase())
    elif options.action == "add-words":
        name, words = add_recovery_words(store)
        say(words)
        tell("put them on paper; nobody keeps them. Old words open the store until removed")
    elif options.action == "add-key-file":
        name = add_key_file(store, Path(_named(options, "which file shall be made?")).absolute())
    elif options.action == "add-escrow":
        name = add_escrow(store, _public_half(_named(options, "which escrow key?")))
    else:
        name = _named(options, "which slot shall go? `slots list` names them")
        remove_slot(store, name)
    write_head(store, clock=system_clock)
    tell(f"{'removed' if options.action == 'remove' else 'added'} {name}")
    return 0


def escrow_key(options: Options, _stop: StopToken) -> int:
    """Make a pair of escrow keys."""
    private = codec_slots.fresh_secret()
    codec_slots.write_key_file(options.to.absolute(), private)
    say(codec_slots.escrow_public_key(private).hex())
    tell(
        f"{options.to} opens every store this is added to: put it into a safe, not on this machine"
    )
    return 0


def vault_file(options: Options, _stop: StopToken) -> int:
    """Make the file for a new vault whose host holds no key."""
    store = opened(options)
    begin_needs_lists(store)
    write_vault_file(options.to.absolute(), make_vault_file(store, clock=system_clock))
    tell(
        f"copy {options.to} to the vault's host, for likeness pull --vault-file; it opens nothing."
        " Start the deployment protect once, so that the store says what its versions need"
    )
    return 0


def sheet(options: Options, _stop: StopToken) -> int:
    """Print the recovery sheet, with words only if they are made now."""
    store = opened(options)
    words = None
    if options.new_words:
        _, words = add_recovery_words(store)
        write_head(store, clock=system_clock)
    say(_sheet(store, options.store or f"that of site {options.site}", words))
    return 0


def epoch(options: Options, _stop: StopToken) -> int:
    """Show, begin or mend epochs."""
    store = opened(options)
    if options.action == "begin":
        store = begin_epoch(store, clock=system_clock)
        write_head(store, clock=system_clock)
        tell("jobs that have the store open must be started again; print a new recovery sheet")
    elif options.action == "renew":
        for name in renew_public_keys(store, clock=system_clock):
            tell(f"wrote {name} anew")
    say(f"epoch {store.keys.epoch}, fingerprint {store.keys.public().fingerprint}")
    return 0


def _sheet(store: DataStore, place: str, words: str | None) -> str:
    return recovery_sheet(store, place=place, words=words, clock=system_clock)


def _typed_back(words: str) -> None:
    """Have the words written down, and prove it by having them typed.

    Raises:
        BadInput: They were not typed back.
    """
    tell("These 24 words open the data store when everything else is lost. Nobody keeps them.")
    tell("Write them down now, on paper:")
    tell("")
    each = words.split()
    for start in range(0, len(each), 6):
        tell(
            "    "
            + " ".join(f"{n:2}. {w:<10}" for n, w in enumerate(each[start : start + 6], start + 1))
        )
    tell("")
    for _ in range(_ATTEMPTS):
        try:
            answer = codec_slots.from_words(ask_words("Type them back from the paper"))
        except BadInput as cause:
            tell(str(cause))
            continue
        if codec_slots.as_words(answer) == words:
            return
        tell("these are recovery words, but not the ones above")
    raise BadInput("the words were not typed back, so no data store was made; run create again")


def _public_half(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as cause:
        raise BadInput(
            f"{text!r} is no public half of an escrow key: `escrow-key` prints it, 64 hex digits"
        ) from cause


def _new_passphrase() -> str:
    passphrase = ask_secret(f"New passphrase, {SHORTEST_PASSPHRASE} characters or more")
    kept = passphrase_bytes(passphrase)
    if len(kept.decode()) < SHORTEST_PASSPHRASE:
        raise BadInput(f"a passphrase needs at least {SHORTEST_PASSPHRASE} characters")
    if passphrase_bytes(ask_secret("The same again")) != kept:
        raise BadInput("the two passphrases differ; nothing was changed")
    return passphrase


def _named(options: Options, question: str) -> str:
    if not options.name:
        raise BadInput(f"{question} give its name after {options.action}")
    name: str = options.name
    return name
