"""One installation owns a store; the one before it is refused at its next change."""

import pytest

from likeness.errors import StoreTakenOver
from likeness.model.ids import random_name
from likeness.store import layout
from likeness.store.data_store import DataStore, open_store_with_key_file
from likeness.store.keyring import add_recovery_words
from likeness.store.owning import Fence, newest_owner, owner_of, take_over
from tests.unit.workshop import Workshop


def opened(workshop: Workshop, installation: str) -> DataStore:
    store = open_store_with_key_file(workshop.transport, workshop.key_file)
    store.fence = Fence(lambda: installation)
    return store


def test_who_owned_a_store_is_refused_and_the_new_owner_is_not(
    workshop: Workshop,
) -> None:
    old, new = owner_of(workshop.store), random_name()
    before = opened(workshop, old)
    before.require_writable()

    taken = take_over(workshop.store, new, host="new.example", clock=workshop.clock)

    assert (taken.number, owner_of(workshop.store)) == (2, new)
    with pytest.raises(StoreTakenOver, match=rf"by installation {new[:8]} on new\.example at"):
        add_recovery_words(before)
    with pytest.raises(StoreTakenOver), before.again() as second:
        second.for_writing()
    add_recovery_words(opened(workshop, new))
    assert take_over(workshop.store, new, host="", clock=workshop.clock) == taken, "safe to repeat"
    take_over(workshop.store, old, host="", clock=workshop.clock)
    before.require_writable()


def test_a_take_over_that_was_torn_in_mid_write_shuts_nobody_out(
    workshop: Workshop,
) -> None:
    old, new = owner_of(workshop.store), random_name()
    workshop.transport.create(layout.numbered(layout.OWNER, 2), [b"torn"])

    opened(workshop, old).require_writable()
    with pytest.raises(StoreTakenOver):
        opened(workshop, new).require_writable()

    take_over(workshop.store, new, host="", clock=workshop.clock)
    owner, _ = newest_owner(workshop.store)
    assert owner is not None
    assert (owner.number, owner.installation) == (3, new)
