"""What people call things has any length; what a version record takes has not.

No name, remark or description may keep a VM from being backed up. What is too long is cut, and
says so at its end; whoever commits puts the whole into the log.
"""

import json
from collections.abc import Iterator
from dataclasses import replace

import msgspec

from likeness.store.format.documents import MAX_CONFIGURATION, MAX_TEXT
from likeness.store.write.receipts import TransferReceipt

_MAX_ENCODED_BYTES = 32 << 20  # a record has 64 MiB, and needs room for its disks
_CUTS = (1 << 20, 1 << 16, 1 << 12, 1 << 8)
_TOP = 2  # which objects there are, and which fields they have, is kept in any case


def fitting(text: str, most: int = MAX_TEXT) -> str:
    """A text as a record takes it: in Unicode that can be written, and cut where it is too long."""
    sound = text.encode(errors="replace").decode()
    if len(sound) <= most:
        return sound
    end = f" ... ({len(sound)} characters in all)"
    return sound[: most - len(end)] + end


def fitting_configuration(text: str) -> str:
    """A VM's description, JSON, without its longest parts where it is too long as a whole."""
    sound = text.encode(errors="replace").decode()
    if _fits(sound):
        return sound
    try:
        whole = json.loads(sound)
        for most in _CUTS:
            if _fits(shorter := json.dumps(_without_long(whole, most, depth=0))):
                return shorter
    except (ValueError, RecursionError):
        pass  # no JSON that could be cut with sense
    return json.dumps({"left out": f"{len(sound)} characters", "beginning": sound[:MAX_TEXT]})


def cut_texts(receipt: TransferReceipt) -> Iterator[tuple[str, str]]:
    """What `fitted` will cut, in words, and the whole of it."""
    texts = {
        "name": receipt.vm.name,
        "remark": receipt.note,
        "job": receipt.job,
        **{f"disk {d.facts.position:.20}": d.facts.name for d in receipt.disks},
    }
    for what, text in texts.items():
        if fitting(text) != text:
            yield what, text
    if fitting_configuration(receipt.vm.configuration) != receipt.vm.configuration:
        yield "description", receipt.vm.configuration


def fitted(receipt: TransferReceipt) -> TransferReceipt:
    """A receipt of which every text fits into a version record."""
    vm = replace(
        receipt.vm,
        name=fitting(receipt.vm.name),
        configuration=fitting_configuration(receipt.vm.configuration),
    )
    disks = tuple(
        replace(
            disk,
            facts=replace(
                disk.facts, name=fitting(disk.facts.name), position=fitting(disk.facts.position)
            ),
        )
        for disk in receipt.disks
    )
    return replace(
        receipt,
        vm=vm,
        disks=disks,
        job=fitting(receipt.job),
        note=fitting(receipt.note),
        consistency=fitting(receipt.consistency),
        consistency_asked=fitting(receipt.consistency_asked),
    )


def _fits(text: str) -> bool:
    return len(text) <= MAX_CONFIGURATION and len(msgspec.json.encode(text)) <= _MAX_ENCODED_BYTES


def _without_long(value: object, most: int, *, depth: int) -> object:
    """The same kind of thing, since whoever restores it counts on that."""
    if isinstance(value, str):
        return fitting(value, most)
    long = depth >= _TOP and len(json.dumps(value)) > most
    if isinstance(value, dict):
        if long:
            return {"left out": f"{len(value)} entries"}
        return {
            fitting(name, 1 << 10): _without_long(each, most, depth=depth + 1)
            for name, each in value.items()
        }
    if isinstance(value, list):
        return [] if long else [_without_long(each, most, depth=depth + 1) for each in value]
    return value
