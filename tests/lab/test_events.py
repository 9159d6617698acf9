"""event.from."""

import threading
import time

import pytest
import XenAPI

from lab.serving import LabServer
from tests.lab.clients import JsonClient, Xen

BOTH_PROTOCOLS = True


def test_without_a_token_every_object_comes_as_added_with_its_record(xen: Xen) -> None:
    answer = xen.events(["vm"])
    assert {e["operation"] for e in answer["events"]} == {"add"}
    assert {e["class"] for e in answer["events"]} == {"vm"}
    assert {e["ref"] for e in answer["events"]} == set(xen.api.VM.get_all())
    assert answer["events"][0]["snapshot"].keys() == xen.api.VM.get_record(xen.vm("web")).keys()
    assert int(answer["valid_ref_counts"]["vm"]) == len(xen.api.VM.get_all())
    number, zero = answer["token"].split(",")
    assert (len(number), len(zero)) == (20, 20)
    assert number.isdigit()


def test_changes_come_as_mod_add_and_del_at_most_once_per_object(xen: Xen) -> None:
    vm = xen.vm("web")
    token = xen.events(["*"])["token"]
    for name in ("a", "b", "c"):
        xen.api.VM.set_name_label(vm, name)
    made = xen.new_disk()
    answer = xen.events(["vm", "vdi"], token)
    seen = {(e["class"], e["ref"]): e for e in answer["events"]}
    assert len(seen) == len(answer["events"])
    assert seen["vm", vm]["operation"] == "mod"
    assert seen["vm", vm]["snapshot"]["name_label"] == "c"
    assert seen["vdi", made]["operation"] == "add"
    xen.api.VDI.destroy(made)
    gone = xen.events(["vdi"], answer["token"])["events"]
    assert [(e["operation"], e["ref"], "snapshot" in e) for e in gone] == [("del", made, False)]


def test_what_came_and_went_between_two_answers_makes_no_event(xen: Xen) -> None:
    token = xen.events(["vdi"])["token"]
    xen.api.VDI.destroy(xen.new_disk())
    assert xen.events(["vdi"], token, 0.0)["events"] == []


def test_it_blocks_until_something_happens_and_otherwise_comes_back_empty(
    lab: LabServer, xen: Xen
) -> None:
    vm = xen.vm("web")
    token = xen.events([f"vm/{vm}"])["token"]
    before = time.monotonic()
    assert xen.events([f"vm/{vm}"], token, 0.2)["events"] == []
    assert time.monotonic() - before >= 0.2

    other = JsonClient(lab.url)
    other.session = xen.token
    other("VM.set_name_description", xen.vm("db"), "not this one")
    timer = threading.Timer(0.1, other, ("VM.set_name_description", vm, "this one"))
    timer.start()
    answer = xen.events([f"VM/{vm}"], token, 30.0)
    timer.join()
    assert [e["snapshot"]["name_description"] for e in answer["events"]] == ["this one"]


def test_a_bad_token_or_subscription_is_refused(xen: Xen) -> None:
    with pytest.raises(XenAPI.Failure) as refused:
        xen.events(["vm"], "yesterday")
    assert refused.value.details == ["EVENT_FROM_TOKEN_PARSE_FAILURE", "yesterday"]
    with pytest.raises(XenAPI.Failure, match="EVENT_SUBSCRIPTION_PARSE_FAILURE"):
        xen.events(["vm/a/b"])


def test_sessions_and_secrets_make_no_events(xen: Xen) -> None:
    token = xen.events(["*"])["token"]
    xen.api.secret.create({"value": "v", "other_config": {}})
    Xen(xen.lab)
    assert xen.events(["*"], token, 0.0)["events"] == []


def test_both_ends_of_a_relation_are_announced(xen: Xen) -> None:
    vm, disk = xen.vm("web"), xen.new_disk()
    token = xen.events(["*"])["token"]
    vbd = xen.new_vbd(vm, disk)
    seen = {(e["class"], e["ref"], e["operation"]) for e in xen.events(["*"], token)["events"]}
    assert seen == {("vbd", vbd, "add"), ("vm", vm, "mod"), ("vdi", disk, "mod")}


def test_waiting_ends_with_the_session(lab: LabServer, xen: Xen) -> None:
    waiter = JsonClient(lab.url)
    waiter.log_in(lab.username, lab.password)
    token = xen.events(["*"])["token"]
    failures: list[str] = []

    def wait() -> None:
        try:
            waiter("event.from", ["*"], token, 30.0)
        except Exception as error:  # noqa: BLE001
            failures.append(str(error.args[0]))

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.1)
    lab.pool.sessions.end_all()
    thread.join(20)
    assert failures == ["SESSION_INVALID"]
