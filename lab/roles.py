"""Roles: who may call what, as the data model says for every message."""

from lab.facts import Facts
from lab.failures import XapiFailure

ADMIN, LEAST = "pool-admin", "read-only"
ROLES = (ADMIN, "pool-operator", "vm-power-admin", "vm-admin", "vm-operator", LEAST)
ROOT = "local-root-only"
DENIED = "No permission in user session"


def may(role: str, least: str) -> bool:
    """Say whether a role reaches as far as a message asks.

    Args:
        role: Of the caller; the local superuser has `local-root-only`.
        least: Such as `vm-admin`, `vm-admin+client-cert` or `local-root-only`.
    """
    if role == ROOT:
        return True
    least = least.removesuffix("+client-cert")
    return least != ROOT and ROLES.index(role) <= ROLES.index(least)


def permissions(facts: Facts, role: str) -> list[str]:
    """Name every message a role may call, as the server names permissions: in lower case."""
    return [
        message.full_name.lower()
        for message in facts.messages()
        if not message.open and may(role, message.role)
    ]


def require(role: str, least: str, permission: str) -> None:
    """Refuse who may not."""
    if not may(role, least):
        raise XapiFailure("RBAC_PERMISSION_DENIED", permission.lower(), DENIED)
