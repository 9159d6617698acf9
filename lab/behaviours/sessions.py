"""session.*: logging in and out."""

from lab.calls import Call
from lab.failures import XapiFailure
from lab.registry import message


@message("session.login_with_password")
def login_with_password(call: Call, uname: str, pwd: str, version: str, originator: str) -> str:
    """Open a session; a member of the pool sends the caller to its coordinator."""
    del version
    coordinator = call.pool.hosts.coordinator_address(asked=call.host)
    if coordinator:
        raise XapiFailure("HOST_IS_SLAVE", coordinator)
    return call.pool.sessions.log_in(uname, pwd, originator)


@message("session.logout", "session.local_logout")
def logout(call: Call) -> None:
    """Close the caller's session."""
    call.pool.sessions.end(call.session)
