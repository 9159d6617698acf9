"""A night unlike a VM's others is noticed; an ordinary one is not."""

import pytest

from likeness.store.format.documents import Counts
from tasks.sentinel import LEAST_NIGHTS, why_unlike

GIB = 1 << 30


def night(new_gib: float, kept: float = 0.5) -> Counts:
    new = int(new_gib * GIB)
    return Counts(disk_bytes=100 * GIB, new_bytes=new, sent_bytes=int(new * kept))


USUAL = [night(share) for share in (1, 2, 0.5, 1.5, 1, 3)]


@pytest.mark.parametrize("new_gib", [0, 1, 4, 9])
def test_what_a_vm_does_every_night_is_nothing(new_gib: float) -> None:
    assert why_unlike(night(new_gib), USUAL) == ""


def test_a_jump_is_told_with_what_is_usual() -> None:
    said = why_unlike(night(40), USUAL)
    assert said == ("40% of its disks (40.0 GiB) is data never seen before, 1.2% on other nights")


def test_what_does_not_compress_is_told_too() -> None:
    assert "as encrypted data does not" in why_unlike(night(40, kept=1.0), USUAL)
    always = [night(1, kept=1.0) for _ in USUAL]  # films do not compress on any night
    assert "encrypted" not in why_unlike(night(40, kept=1.0), always)


def test_a_new_vm_and_a_small_one_are_left_alone() -> None:
    assert why_unlike(night(90), USUAL[: LEAST_NIGHTS - 1]) == ""
    small = [Counts(disk_bytes=1 << 20, new_bytes=1 << 10) for _ in USUAL]
    assert why_unlike(Counts(disk_bytes=1 << 20, new_bytes=1 << 20), small) == ""
