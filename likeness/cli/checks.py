"""Commands that look whether a store is well."""

import argparse
import itertools
import tempfile
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from likeness.cli.opening import opened, transport_of, viewed
from likeness.cli.terminal import Meter, printable, say, tell
from likeness.clock import system_clock
from likeness.errors import BadInput, Damaged, StoreTooNew
from likeness.stopping import StopToken
from likeness.store import layout
from likeness.store.auditing import audit_presence
from likeness.store.history import expect_head, read_history
from likeness.store.meant import version_meant
from likeness.store.observations import Observation, Weight
from likeness.store.proving_versions import VersionsProof, prove_one
from likeness.store.public_view import PublicStore, SignedView, open_public
from likeness.store.recorded import recorded_versions
from likeness.store.scrubbing import scrub_frames, scrub_signatures
from likeness.store.weighing import Weigher

MOST_SHOWN = 200
"""Lines printed of one weight; the rest is counted. A version is always named."""


def audit(options: argparse.Namespace, stop: StopToken) -> int:
    """Names and lengths."""
    view = viewed(options)
    _vouch(view, options)
    found = Weigher(view).weighed(audit_presence(view, stop=stop))
    return _report(found, "everything is there")


def scrub(options: argparse.Namespace, stop: StopToken) -> int:
    """Frames and checksums, without any key."""
    meter = Meter("read")
    transport = transport_of(options)
    found: Iterable[Observation] = scrub_frames(transport, stop=stop, progress=meter.add)
    with suppress(Damaged, StoreTooNew):  # then nothing tells what anything means for versions
        found = Weigher(open_public(transport)).weighed(found)
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
    code = _report(Weigher(view).weighed(found), "everything is there and as it was signed")
    meter.finish()
    return code


def prove(options: argparse.Namespace, stop: StopToken) -> int:
    """Every version there is, or one: its documents, its block maps and all that they need."""
    store = opened(options)
    meter = Meter("proved")
    with tempfile.TemporaryDirectory(prefix="likeness-") as folder:
        proof = VersionsProof(store, Path(folder), system_clock, stop, meter.add)
        if options.version is None:
            recorded = recorded_versions(store)
            found: Iterable[Observation] = itertools.chain(
                recorded.told, proof.prove(recorded.versions)
            )
        else:
            found = prove_one(proof, version_meant(store, options.version))
        code = _report(found, "every chunk was opened and hashed again, and all are right")
    meter.finish()
    return code


def _report(found: Iterable[Observation], all_well: str) -> int:
    """Print what was found, and say what it comes to."""
    counted: Counter[Weight] = Counter()
    left: Counter[Weight] = Counter()
    for each in found:
        counted[each.weight] += 1
        if counted[each.weight] <= MOST_SHOWN or each.name.startswith(f"{layout.VERSIONS}/"):
            say(f"{each.weight}: {printable(str(each))}")
        else:
            left[each.weight] += 1
    for weight in left:
        say(f"{weight}: and {left[weight]} more")
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
    right = number.isascii() and number.isdecimal() and len(number) < 20
    if not right or len(digits) < 8 or set(digits.lower()) - set("0123456789abcdef"):
        raise BadInput(
            f"{number} {digits} is no head: give its number and eight hex digits, as in the report"
        )
    return int(number), digits
