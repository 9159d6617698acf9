"""Commands that look whether a store is well."""

import itertools
import tempfile
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from likeness.cli.opening import opened, transport_of, viewed
from likeness.cli.options import Options
from likeness.cli.terminal import Meter, coloured, printable, say, say_json, tell
from likeness.clock import system_clock
from likeness.errors import BadInput, Damaged, StoreTooNew
from likeness.stopping import StopToken
from likeness.store.check.auditing import audit_presence
from likeness.store.check.meant import version_meant
from likeness.store.check.proving_versions import VersionsProof, prove_one
from likeness.store.check.recorded import recorded_versions
from likeness.store.check.scrubbing import scrub_frames, scrub_signatures
from likeness.store.check.weighing import Weigher
from likeness.store.format import layout
from likeness.store.format.observations import Observation, Weight
from likeness.store.format.public_view import PublicStore, SignedView, open_public
from likeness.store.write.history import expect_head, read_history

MAX_SHOWN = 200
"""Lines printed of one weight; the rest is counted. A version is always named."""
_COLOURS = {
    Weight.DAMAGE: "red",
    Weight.SPARE_LOST: "yellow",
    Weight.UNCHECKED: "yellow",
    Weight.NOTICE: "cyan",
}


def audit(options: Options, stop: StopToken) -> int:
    """Names and lengths."""
    view = viewed(options)
    _vouch(view, options)
    found = Weigher(view).weighed(audit_presence(view, stop=stop))
    return _report(found, "everything is there", options)


def scrub(options: Options, stop: StopToken) -> int:
    """Frames and checksums, without any key."""
    meter = Meter("read")
    transport = transport_of(options)
    found: Iterable[Observation] = scrub_frames(transport, stop=stop, progress=meter.add)
    with suppress(Damaged, StoreTooNew):  # then nothing tells what anything means for versions
        found = Weigher(open_public(transport)).weighed(found)
    code = _report(found, "every object is as it was written, as far as checksums tell", options)
    meter.finish()
    return code


def verify(options: Options, stop: StopToken) -> int:
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
    code = _report(
        Weigher(view).weighed(found), "everything is there and as it was signed", options
    )
    meter.finish()
    return code


def prove(options: Options, stop: StopToken) -> int:
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
        code = _report(found, "every chunk was opened and hashed again, and all are right", options)
    meter.finish()
    return code


def _report(found: Iterable[Observation], all_well: str, options: Options) -> int:
    """Print what was found, and say what it comes to."""
    counted: Counter[Weight] = Counter()
    shown: Counter[Weight] = Counter()
    kept: list[Observation] = []
    for each in found:
        counted[each.weight] += 1
        if options.as_json:
            kept.append(each)
        elif counted[each.weight] <= MAX_SHOWN or each.name.startswith(f"{layout.VERSIONS}/"):
            shown[each.weight] += 1
            say(f"{coloured(f'{each.weight}:', _COLOURS[each.weight])} {printable(str(each))}")
    code = _code(counted)
    if options.as_json:
        say_json({"fine": not code, "found": [_facts(each) for each in kept]})
        return code
    for weight, count in (counted - shown).items():
        say(f"{weight}: and {count} more")
    if not code:
        say(f"{coloured('fine:', 'green')} {all_well}")
    return code


def _code(counted: Counter[Weight]) -> int:
    if counted[Weight.DAMAGE] or counted[Weight.SPARE_LOST]:
        return 1
    return 3 if counted[Weight.UNCHECKED] else 0


def _facts(each: Observation) -> dict[str, str]:
    return {
        "weight": each.weight.value,
        "name": each.name,
        "cause": each.cause,
        "meaning": each.meaning,
    }


def _vouch(view: SignedView, options: Options) -> None:
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
