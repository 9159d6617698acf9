"""role.*, subject.*, auth.*: who may do what."""

from lab.calls import Call
from lab.failures import XapiFailure
from lab.registry import message
from lab.roles import ROLES, permissions
from lab.wire.values import Value


def _named(call: Call, label: str) -> str:
    """The record of a permission: an internal role, made when somebody first asks for one."""
    with call.db.lock:
        found = call.db.where("role", name_label=label)
        return found[0] if found else call.db.create("role", name_label=label, is_internal=True)


def _labels(call: Call, role: str) -> list[str]:
    label = call.db.get("role", role, "name_label")
    return permissions(call.db.facts, label) if label in ROLES else []


@message("role.get_permissions_name_label")
def get_permission_labels(call: Call, role: str) -> Value:
    """Name what a role allows."""
    return _labels(call, role)


@message("role.get_permissions")
def get_permissions(call: Call, role: str) -> Value:
    """What a role allows: each permission is an internal role."""
    with call.db.lock:
        known = {call.db.get("role", r, "name_label"): r for r in call.db.refs("role")}
        return [known.get(label) or _named(call, label) for label in _labels(call, role)]


@message("role.get_by_permission")
def get_by_permission(call: Call, permission: str) -> Value:
    """Which roles have a permission."""
    return get_by_permission_label(call, call.db.get("role", permission, "name_label"))


@message("role.get_by_permission_name_label")
def get_by_permission_label(call: Call, label: str) -> Value:
    """Which roles have a permission of this name."""
    roles = [r for r in call.db.refs("role") if not call.db.get("role", r, "is_internal")]
    return [role for role in roles if label in _labels(call, role)]


@message("subject.create")
def create_subject(call: Call, fields: dict[str, Value]) -> str:
    """Give an external user access, with no role yet."""
    if call.db.where("subject", subject_identifier=fields.get("subject_identifier", "")):
        raise XapiFailure("SUBJECT_ALREADY_EXISTS")
    return call.db.create("subject", **fields)


@message("subject.add_to_roles")
def add_to_roles(call: Call, subject: str, role: str) -> None:
    """Give a user a role; it counts from the next login."""
    if call.db.get("role", role, "is_internal"):
        raise XapiFailure("ROLE_NOT_FOUND")
    with call.db.lock:
        if role in call.db.get("subject", subject, "roles"):
            raise XapiFailure("ROLE_ALREADY_EXISTS")
        call.db.add_item("subject", subject, "roles", role)


@message("subject.remove_from_roles")
def remove_from_roles(call: Call, subject: str, role: str) -> None:
    """Take a role from a user."""
    with call.db.lock:
        if role not in call.db.get("subject", subject, "roles"):
            raise XapiFailure("ROLE_NOT_FOUND")
        call.db.drop_item("subject", subject, "roles", role)


@message("subject.get_permissions_name_label")
def get_subject_permissions(call: Call, subject: str) -> Value:
    """Name what a user may do."""
    held = [_labels(call, role) for role in call.db.get("subject", subject, "roles")]
    return list(dict.fromkeys(label for labels in held for label in labels))


def _identifier(call: Call, name: str) -> str:
    account = call.pool.sessions.accounts.get(name)
    if account is None:
        raise XapiFailure("SUBJECT_CANNOT_BE_RESOLVED")
    return str(call.db.get("subject", account.subject, "subject_identifier"))


@message("auth.get_subject_identifier")
def get_subject_identifier(call: Call, subject_name: str) -> str:
    """Find out the identifier of a user."""
    return _identifier(call, subject_name)


def _name(call: Call, identifier: str) -> str:
    names = call.pool.sessions.accounts
    found = next((name for name in names if _identifier(call, name) == identifier), None)
    if found is None:
        raise XapiFailure("SUBJECT_CANNOT_BE_RESOLVED")
    return found


@message("auth.get_subject_information_from_identifier")
def get_subject_information(call: Call, subject_identifier: str) -> Value:
    """What is known of a user."""
    name = _name(call, subject_identifier)
    return {"subject-name": name, "subject-account-disabled": "false"}


@message("auth.get_group_membership")
def get_group_membership(call: Call, subject_identifier: str) -> Value:
    """The groups a user belongs to: none here."""
    _name(call, subject_identifier)
    return []
