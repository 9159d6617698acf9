"""Who may call what: the least role of every message, as the data model gives it."""

import json

import pytest
import XenAPI

from lab.facts import load_facts
from lab.failures import XapiFailure
from lab.roles import ROLES, ROOT
from lab.serving import LabServer
from lab.wire.values import null_value
from tests.figures import tell
from tests.lab.clients import Xen, control, open_session

FACTS = load_facts()


def refusal(lab: LabServer, method: str, *parameters: object) -> list[str]:
    try:
        lab.pool.dispatcher.answer(method, list(parameters))
    except XapiFailure as failure:
        return failure.description
    return []


def session_of(lab: LabServer, role: str) -> str:
    lab.pool.add_account(role, "pw", role)
    return str(lab.pool.dispatcher.answer("session.login_with_password", [role, "pw"]))


def test_every_role_is_refused_exactly_what_lies_above_it(lab: LabServer) -> None:
    refused = dict.fromkeys(ROLES, 0)
    for place, role in enumerate(ROLES):
        session = session_of(lab, role)
        for message in FACTS.messages():
            least = message.role.removesuffix("+client-cert")
            above = least == ROOT or ROLES.index(least) < place
            if message.open or (not above and role != "read-only") or message.name == "next":
                continue
            session = session if lab.pool.db.exists("session", session) else _again(lab, role)
            nulls = [null_value(p.type, FACTS.enums) for p in message.parameters]
            answer = refusal(lab, message.full_name, session, *nulls)
            denied = ["RBAC_PERMISSION_DENIED", message.full_name.lower()]
            assert (answer[:2] == denied) == above, (role, message.full_name, answer)
            refused[role] += above
    tell(f"messages refused by role: {refused}")
    assert refused["pool-admin"] < refused["vm-admin"] < refused["read-only"] < 700


def _again(lab: LabServer, role: str) -> str:
    return str(lab.pool.dispatcher.answer("session.login_with_password", [role, "pw"]))


def test_a_lesser_account_backs_up_but_switches_no_nbd_on(lab: LabServer, xen: Xen) -> None:
    body = {"name": "backup", "password": "pw", "role": "vm-power-admin"}
    control(lab, "POST", "/accounts", json.dumps(body).encode())
    session = open_session(lab.url)
    session.xenapi.login_with_password("backup", "pw", "1.0", "tests")
    api, ref = session.xenapi, session._session
    snapshot = api.VM.snapshot(xen.vm("web"), "allowed")
    assert api.VM.get_is_a_snapshot(snapshot)
    network = api.network.get_all()[0]
    for form in (api.network, api.Async.network):
        with pytest.raises(XenAPI.Failure) as denied:
            form.add_purpose(network, "nbd")
        assert denied.value.details[:2] == ["RBAC_PERMISSION_DENIED", "network.add_purpose"]
    assert not api.session.get_is_local_superuser(ref)
    permissions = api.session.get_rbac_permissions(ref)
    assert "vm.snapshot" in permissions
    assert "network.add_purpose" not in permissions
    assert xen.api.session.get_rbac_permissions(xen.token) == []
    assert api.session.get_auth_user_sid(ref).startswith("u:")


def test_a_reader_may_not_transfer_disks_and_the_task_says_so(lab: LabServer, xen: Xen) -> None:
    session, task = session_of(lab, "read-only"), xen.api.task.create("t", "")
    disk = xen.disks(xen.vm("web"))[0]
    for method, path in (("GET", "/export_raw_vdi"), ("PUT", "/import_raw_vdi")):
        connection = xen.connection()
        connection.request(method, f"{path}?session_id={session}&vdi={disk}&task_id={task}")
        assert connection.getresponse().status == 403
        connection.close()
    assert xen.wait(task)["error_info"][0] == "RBAC_PERMISSION_DENIED"
