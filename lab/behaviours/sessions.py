"""session.*: logging in and out."""

import secrets

from lab.behaviours.ha import refuse_ha
from lab.calls import Call
from lab.failures import XapiFailure
from lab.registry import message
from lab.wire.values import Value


@message("session.login_with_password")
def login_with_password(call: Call, uname: str, pwd: str, version: str, originator: str) -> str:
    """Open a session; a member of the pool sends the caller to its coordinator."""
    del version
    coordinator = call.pool.coordinator_address(asked=call.host)
    if coordinator:
        raise XapiFailure("HOST_IS_SLAVE", coordinator)
    return call.pool.sessions.log_in(uname, pwd, originator)


@message("session.slave_local_login_with_password")
def slave_local_login_with_password(call: Call, uname: str, pwd: str) -> str:
    """Open a session on this very host, coordinator or not."""
    return call.pool.sessions.log_in(uname, pwd, "local")


@message("session.slave_login")
def slave_login(call: Call, host: str, psecret: str) -> str:
    """Open a session for a host of the pool."""
    call.db.row("host", host)
    return call.pool.sessions.log_in_host(psecret)


@message("session.slave_local_login")
def slave_local_login(call: Call, psecret: str) -> str:
    """The same on this very host."""
    return call.pool.sessions.log_in_host(psecret)


@message("pool.initial_auth")
def initial_auth(call: Call) -> str:
    """Tell a joining host the pool's secret."""
    return call.pool.sessions.pool_secret


@message("pool.rotate_secret")
def rotate_secret(call: Call) -> None:
    """Let the hosts know each other by a new secret."""
    refuse_ha(call)
    call.pool.sessions.pool_secret = secrets.token_hex(32)


@message("host.update_pool_secret")
def update_pool_secret(call: Call, host: str, pool_secret: str) -> None:
    """Tell a host the new secret."""
    call.db.row("host", host)
    call.pool.sessions.pool_secret = pool_secret


@message("session.logout", "session.local_logout")
def logout(call: Call) -> None:
    """Close the caller's session."""
    call.pool.sessions.end(call.session)


@message("session.change_password")
def change_password(call: Call, old_pwd: str, new_pwd: str) -> None:
    """Change the password of the one account there is."""
    settings = call.pool.settings
    if not call.pool.sessions.password_fits(settings.username, old_pwd):
        raise XapiFailure("CHANGE_PASSWORD_REJECTED", "the old password is wrong")
    settings.password = new_pwd


def _sessions_of(call: Call, identifier: str) -> list[str]:
    return call.db.where("session", auth_user_sid=identifier)


@message("session.get_all_subject_identifiers")
def get_all_subject_identifiers(call: Call) -> Value:
    """Name the external users that are logged in."""
    held = [call.db.get("session", s, "auth_user_sid") for s in call.db.refs("session")]
    return sorted(set(held) - {""})


@message("session.logout_subject_identifier")
def logout_subject_identifier(call: Call, subject_identifier: str) -> None:
    """Log an external user out everywhere."""
    for ref in _sessions_of(call, subject_identifier) if subject_identifier else ():
        call.pool.sessions.end(ref)
