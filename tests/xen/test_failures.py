"""Every refusal of XenServer becomes a sentence and says whether another attempt can help."""

import pickle

import pytest

from likeness.errors import (
    HostBusy,
    HostRefused,
    LikenessError,
    LoginRefused,
    PermanentError,
    TransferBroken,
    TransientError,
)
from likeness.xen.failures import GONE, Refusal, explain, explained, reason, suppress_gone

# Code, parameters, and whether repeating may help.
TABLE = [
    ("SESSION_AUTHENTICATION_FAILED", ["root", "no"], LoginRefused),
    ("RBAC_PERMISSION_DENIED", ["VM.snapshot", "no"], HostRefused),
    ("HOST_STILL_BOOTING", [], HostBusy),
    ("TOO_BUSY", [], HostBusy),
    ("HOST_OFFLINE", ["host"], HostBusy),
    ("CANNOT_CONTACT_HOST", ["host"], HostBusy),
    ("OTHER_OPERATION_IN_PROGRESS", ["VM", "ref", "clone", "task"], HostBusy),
    ("OTHER_OPERATION_IN_PROGRESS", ["VM", "ref"], HostBusy),
    ("OPERATION_NOT_ALLOWED", ["VDI is a snapshot: ref"], HostRefused),
    ("OPERATION_BLOCKED", ["ref", "because"], HostRefused),
    ("VM_BAD_POWER_STATE", ["ref", "running", "halted"], HostRefused),
    ("SR_FULL", ["1", "0"], HostRefused),
    ("SR_BACKEND_FAILURE_44", ["", "full [opterr=x]", ""], HostRefused),
    ("SR_BACKEND_FAILURE_109", ["", "chain", ""], HostRefused),
    ("SR_BACKEND_FAILURE_46", ["", "x", ""], HostBusy),
    ("SR_BACKEND_FAILURE_453", ["", "x", ""], HostBusy),
    ("SR_HAS_NO_PBDS", ["sr"], HostRefused),
    ("SR_OPERATION_NOT_SUPPORTED", ["sr"], HostRefused),
    ("LICENCE_RESTRICTION", ["checkpoint"], HostRefused),
    ("MESSAGE_METHOD_UNKNOWN", ["VM.x"], HostRefused),
    ("VDI_CBT_ENABLED", ["vdi"], HostBusy),
    ("VDI_IN_USE", ["vdi", "destroy"], HostBusy),
    ("VDI_IO_ERROR", ["Device I/O errors"], TransferBroken),
    ("HANDLE_INVALID", ["VM", "ref"], HostRefused),
    ("VDI_NOT_MANAGED", ["vdi"], HostRefused),
    ("DEVICE_DETACH_REJECTED", ["VBD", "vbd", "x"], HostBusy),
    ("NO_HOSTS_AVAILABLE", [], HostRefused),
    ("TOO_MANY_PENDING_TASKS", [], HostBusy),
    ("TOO_MANY_STORAGE_MIGRATES", ["3"], HostBusy),
    ("TASK_CANCELLED", ["task"], HostRefused),
    ("INTERNAL_ERROR", ["Not_found"], HostRefused),
    ("A_CODE_NOBODY_KNOWS", ["a", "b"], HostRefused),
]


@pytest.mark.parametrize(("code", "parameters", "kind"), TABLE)
def test_a_refusal_becomes_a_sentence_of_the_right_kind(
    code: str, parameters: list[str], kind: type[LikenessError]
) -> None:
    error = explain(Refusal(code, parameters, method="VM.snapshot"), "snapshot of VM web-1")

    assert type(error) is kind
    assert isinstance(error, TransientError) != isinstance(error, PermanentError)
    assert str(error).startswith("snapshot of VM web-1: ")
    assert "{" not in str(error)
    if kind in (HostBusy, HostRefused):
        assert getattr(error, "code", "") == code
        assert code in str(error)


def test_references_are_shortened_and_long_texts_cut() -> None:
    refusal = Refusal(
        "INTERNAL_ERROR", ["OpaqueRef:01234567-89ab-cdef-0123-456789abcdef", "x" * 999], method="m"
    )

    assert "89ab-cdef" not in str(refusal)
    assert len(str(refusal)) < 500


def test_a_reason_stands_without_what_was_tried() -> None:
    assert reason(Refusal("SR_FULL", [], method="m")) == "the storage is full"
    assert "NEW_CODE" in reason(Refusal("NEW_CODE", [], method="m"))


def test_only_what_is_gone_is_passed_over() -> None:
    for code in GONE:
        with suppress_gone():
            raise Refusal(code, ["VM", "ref"], method="VM.destroy")
    with pytest.raises(Refusal), suppress_gone():
        raise Refusal("VDI_IN_USE", [], method="VDI.destroy")


def test_other_errors_pass_through_unchanged() -> None:
    with pytest.raises(HostBusy, match="as it was"), explained("something"):
        raise HostBusy("as it was")


@pytest.mark.parametrize(("code", "parameters", "kind"), TABLE)
def test_errors_travel_between_processes_with_their_facts(
    code: str, parameters: list[str], kind: type[LikenessError]
) -> None:
    error = explain(Refusal(code, parameters, method="VM.snapshot"), "snapshot of VM web-1")

    there = pickle.loads(pickle.dumps(error))

    assert (type(there), str(there), there.__dict__) == (kind, str(error), error.__dict__)
