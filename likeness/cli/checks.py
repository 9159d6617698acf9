"""Commands that look whether a store is well."""

import argparse
import itertools
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from likeness.cli.opening import opened, transport_of, viewed
from likeness.cli.terminal import Meter, printable, say, tell
from likeness.clock import Clock, system_clock
from likeness.errors import BadInput, Damaged, LikenessError, ObjectMissing
from likeness.model.ids import PackId
from likeness.pipelining import bounded_map
from likeness.stopping import StopToken
from likeness.store import layout
from likeness.store.auditing import audit_presence
from likeness.store.consequences import packs_of, versions_that_need
from likeness.store.data_store import DataStore
from likeness.store.history import expect_head, read_history
from likeness.store.index import KnownPack, known_packs
from likeness.store.observations import (
    UNKNOWN,
    Observation,
    Weight,
    cause_of,
    trouble,
    unchecked,
)
from likeness.store.proving import Finding, PackProof, prove_documents, prove_pack, prove_packs
from likeness.store.public_view import PublicStore, SignedView
from likeness.store.scrubbing import scrub_frames, scrub_signatures
from likeness.store.sweeping import given_back
from likeness.store.versions import find_version, record_names, vms

MOST_SHOWN = 200
"""Lines printed of one weight; the rest is counted."""


def audit(options: argparse.Namespace, stop: StopToken) -> int:
    """Names and lengths."""
    view = viewed(options)
    _vouch(view, options)
    return _report(audit_presence(view, stop=stop), "everything is there")


def scrub(options: argparse.Namespace, stop: StopToken) -> int:
    """Frames and checksums, without any key."""
    meter = Meter("read")
    found = scrub_frames(transport_of(options), stop=stop, progress=meter.add)
    code = _report(found, "every object is as it was written, as far as checksums tell")
    meter.finish()
    return code


def verify(options: argparse.Namespace, stop: StopToken) -> int:
    """Signatures and digests, after names and lengths."""
    head = _head(options.head)
    view = viewed(options)
    _vouch(view, options)
    meter = Meter("read")
    found = itertools.chain(
        audit_presence(view, stop=stop),
        expect_head(read_history(view, whole=True), *head) if head else (),
        scrub_signatures(view, stop=stop, progress=meter.add),
    )
    code = _report(found, "everything is there and as it was signed")
    meter.finish()
    return code


def prove(options: argparse.Namespace, stop: StopToken) -> int:
    """Every chunk, and the documents and block maps of every version."""
    store = opened(options)
    with tempfile.TemporaryDirectory(prefix="likeness-") as folder:
        scratch, problems = Path(folder), list[Observation]()
        if options.version is None:
            names = _all_records(store)
            proofs = _proofs_of_all(store, stop, problems)
        else:
            version = find_version(store, options.version)
            names = iter((version.name,))
            packs = packs_of(store, version, scratch=scratch, stop=stop)
            proofs = prove_packs(store, packs, clock=system_clock, stop=stop)
        found = itertools.chain(
            _documents(store, names, scratch, stop),
            _packs(store, proofs, scratch, stop),
            problems,  # filled by then
        )
        return _report(found, "every chunk was opened and hashed again, and all are right")


def _all_records(store: DataStore) -> Iterator[str]:
    for vm in vms(store):
        yield from record_names(store, vm)


def _report(found: Iterable[Observation], all_well: str) -> int:
    """Print what was found, and say what it comes to."""
    counted: Counter[Weight] = Counter()
    for each in found:
        counted[each.weight] += 1
        if counted[each.weight] <= MOST_SHOWN:
            say(f"{each.weight}: {printable(str(each))}")
    for weight, count in counted.items():
        if count > MOST_SHOWN:
            say(f"{weight}: and {count - MOST_SHOWN} more")
    if counted[Weight.DAMAGE] or counted[Weight.SPARE_LOST]:
        return 1
    if counted[Weight.UNCHECKED]:
        return 3
    say(f"fine: {all_well}")
    return 0


def _vouch(view: SignedView, options: argparse.Namespace) -> None:
    if isinstance(view, PublicStore):
        tell(f"fingerprint of the store's public key: {view.fingerprint}")
        if options.fingerprint is None:
            tell("compare it with the recovery sheet: nothing else vouches for the store's keys")


def _head(told: list[str] | None) -> tuple[int, str] | None:
    if told is None:
        return None
    number, digits = told
    if not number.isdecimal() or len(digits) < 8 or set(digits.lower()) - set("0123456789abcdef"):
        raise BadInput(
            f"{number} {digits} is no head: give its number and eight hex digits, as in the report"
        )
    return int(number), digits


def _proofs_of_all(
    store: DataStore, stop: StopToken, problems: list[Observation]
) -> Iterator[PackProof]:
    """Every pack that the index knows; index segments that cannot be read go to `problems`."""
    clock: Clock = system_clock
    meter = Meter("proved")

    def look(pack: KnownPack) -> PackProof:
        stop.check()
        return prove_pack(store, pack, clock=clock)

    def note(cause: LikenessError) -> None:
        unproved = f"{cause_of(cause)}, so its packs were not proved"
        if isinstance(cause, Damaged | ObjectMissing):
            problems.append(trouble(cause.name, unproved))
        else:
            problems.append(unchecked(layout.INDEX, unproved))

    known = known_packs(store, damaged=note)
    for proof in bounded_map(look, known, workers=os.cpu_count() or 1, name="prove"):
        meter.add(proof.read_bytes)
        yield proof
    meter.finish()


def _packs(
    store: DataStore, proofs: Iterable[PackProof], scratch: Path, stop: StopToken
) -> Iterator[Observation]:
    lost: dict[PackId, str] = {}
    for proof in proofs:
        name = layout.pack(proof.pack)
        if proof.finding in (Finding.DAMAGED, Finding.MISSING):
            lost[proof.pack] = proof.cause or proof.finding
        elif proof.finding is Finding.COULD_NOT_CHECK:
            meaning = "whether it is whole is not known; try again"
            yield Observation(Weight.UNCHECKED, name, proof.cause, meaning)
        elif proof.cause:
            meaning = "every chunk in it is whole, and every version restores"
            yield Observation(Weight.SPARE_LOST, name, proof.cause, meaning)
    needed = versions_that_need(store, lost, scratch=scratch, stop=stop) if lost else {}
    expected = given_back(store) if lost else set()
    for pack, cause in lost.items():
        versions = tuple(needed.get(pack, ()))
        if pack in expected and not versions:
            continue
        meaning = (
            f"{len(versions)} versions cannot be restored in full: {', '.join(versions)}"
            if versions
            else "no version needs it, or other packs hold its chunks too"
        )
        weight = Weight.DAMAGE if versions else Weight.SPARE_LOST
        yield Observation(weight, layout.pack(pack), cause, meaning, versions)


def _documents(
    store: DataStore, names: Iterable[str], scratch: Path, stop: StopToken
) -> Iterator[Observation]:
    for name in names:
        stop.check()
        try:
            proof = prove_documents(store, name, scratch)
        except UNKNOWN as cause:
            yield unchecked(name, cause)
            continue
        yield from (unchecked(name, each) for each in proof.unread)
        weight = Weight.SPARE_LOST if proof.readable else Weight.DAMAGE
        meaning = (
            "the version restores by its other copies"
            if proof.readable
            else "this version cannot be restored from here"
        )
        for problem in proof.problems:
            yield Observation(weight, name, problem, meaning, (name,))
