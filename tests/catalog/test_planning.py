"""What is to be read back, in which order, and what a budget can keep."""

from datetime import timedelta

import pytest

from catalog.connection import CatalogLocation
from catalog.planning import plan_revalidation, what_if
from catalog.validation import packs_to_prove, proof_outlook
from catalog.values import Why
from likeness.model.ids import RunId
from tests.catalog.history import CHUNKS, History
from tests.catalog.scenes import (
    DAY,
    MONTH,
    NOW,
    damaged,
    proved,
    validated,
)
from tests.catalog.test_proofs import one_vm


def test_what_is_read_first_is_new_then_doubtful_then_oldest(catalog: CatalogLocation) -> None:
    history = History(catalog)
    history.back_up("web", {0: {at: CHUNKS[at] for at in range(5)}}, packs=5)
    packs = list(history.packs.values())
    proofs = [
        *proved(packs[0], at=NOW - 40 * DAY),
        *proved(packs[1], at=NOW - 50 * DAY),
        damaged(packs[2], at=NOW - DAY),
        *proved(packs[3], at=NOW - DAY),
    ]
    validated(catalog, proofs, NOW - DAY, MONTH)
    found = packs_to_prove(catalog, NOW, MONTH)
    assert [(p.pack, p.why) for p in found] == [
        (packs[4].pack, Why.NEW),
        (packs[2].pack, Why.RECHECK),
        (packs[1].pack, Why.DUE),
        (packs[0].pack, Why.DUE),
    ]
    assert (found[0].size_bytes, found[0].digest, found[0].chunks) == (
        *(packs[4].size_bytes, packs[4].digest, 1),
    )
    budget = sum(p.size_bytes for p in found[:2])
    assert packs_to_prove(catalog, NOW, MONTH, byte_budget=budget) == found[:2]
    assert packs_to_prove(catalog, NOW, MONTH, byte_budget=1) == found[:1]
    assert [p.pack for p in packs_to_prove(catalog, NOW, None)] == [packs[4].pack, packs[2].pack]
    always = packs_to_prove(catalog, NOW, timedelta())
    assert len(always) == 5
    fresh = packs_to_prove(catalog, NOW, timedelta(), unseen_since=NOW - 2 * DAY)
    assert {p.pack for p in fresh} == {packs[4].pack, packs[1].pack, packs[0].pack}


def test_v6_a_run_reads_what_it_brought_and_what_it_relies_on(catalog: CatalogLocation) -> None:
    history = History(catalog)
    history.back_up("web", {0: {0: CHUNKS[0]}})
    history.back_up("db", {0: {0: CHUNKS[1]}})
    history.back_up("app", {0: {0: CHUNKS[0], 1: CHUNKS[2]}})
    web, _, app = history.packs.values()
    run = RunId(history.last["app"].record.record.run)
    asked = packs_to_prove(catalog, NOW, MONTH, run=run)
    assert {p.pack for p in asked} == {web.pack, app.pack}
    version = history.last["app"].record.version
    assert packs_to_prove(catalog, NOW, MONTH, versions=[version]) == asked
    assert packs_to_prove(catalog, NOW, MONTH, versions=[]) == []
    validated(catalog, proved(web), NOW, MONTH)
    assert [p.pack for p in packs_to_prove(catalog, NOW, MONTH, run=run)] == [app.pack]


def test_the_outlook_says_what_a_budget_can_keep(catalog: CatalogLocation) -> None:
    history = one_vm(catalog)
    first, second = history.packs.values()
    validated(catalog, proved(first, at=NOW - 27 * DAY), NOW, MONTH)
    live = first.size_bytes + second.size_bytes
    outlook = proof_outlook(catalog, NOW, MONTH, bytes_per_day=live // 10)
    assert (outlook.packs, outlook.live_bytes) == (2, live)
    assert (outlook.unproved_packs, outlook.unproved_bytes) == (1, second.size_bytes)
    assert outlook.due_bytes == second.size_bytes
    assert (outlook.oldest_proof_at, outlook.oldest_age) == (NOW - 27 * DAY, 27 * DAY)
    assert outlook.days_per_round == pytest.approx(10)
    assert outlook.reachable is True
    tight = proof_outlook(catalog, NOW, 5 * DAY, bytes_per_day=live // 10)
    assert (tight.reachable, tight.due_bytes) == (False, live)
    assert proof_outlook(catalog, NOW, None).reachable is None


def test_what_each_age_asks_for_is_what_a_plan_of_that_age_does(catalog: CatalogLocation) -> None:
    history = History(catalog)
    for at, name in enumerate(("web", "db", "app", "mail")):
        history.back_up(name, {0: {each: CHUNKS[2 * at + each] for each in range(1 + at % 2)}})
    web, db, app, _ = history.packs.values()
    for days, brought in ((1, web), (9, db), (40, app)):
        validated(catalog, proved(brought, at=NOW - days * DAY), NOW, MONTH)
    live = proof_outlook(catalog, NOW, MONTH).live_bytes

    ages = [7 * DAY, 14 * DAY, 90 * DAY]
    for case in what_if(catalog, NOW, ages):
        plan = plan_revalidation(catalog, NOW, case.max_age, pause=DAY, with_new=False)
        pace = max(plan.pace_bytes, round(live / (case.max_age / DAY)))
        assert case.pace_bytes == pace
        assert case.share == pytest.approx(pace / live, abs=1e-3)
    assert [case.max_age for case in what_if(catalog, NOW, ages)] == ages
