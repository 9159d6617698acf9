"""Does this site work? Every address, login, right, certificate, clock and room, with a remedy."""

import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from ssl import SSLContext, create_default_context
from urllib.parse import urlsplit

import httpx
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_SSL_CERT_FILE, PREFECT_API_URL
from pydantic import BaseModel, SecretStr

from blocks import DataStoreShare, Site, Vault
from likeness.clock import system_clock
from likeness.errors import LikenessError
from likeness.model.ids import random_name
from likeness.model.sizes import counted, readable_size
from likeness.store.format.owning import owner_of
from likeness.store.keys.half_made import try_out
from likeness.store.repair.second_place import require_second_place
from likeness.xen.account import account_facts, pool_clock
from likeness.xen.inventory import list_vms
from tasks.notify import call_webhook, within_timeout
from tasks.overdue_jobs import deployed, overdue_jobs

WELL, DOUBT, WRONG = "✅", "🟠", "❌"
_LEAST_FREE_BYTES = 1 << 30
_LEAST_FREE_SHARE = 0.1
_MAX_CLOCK_SECONDS = 60
_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Checked:
    """One thing that was looked at.

    Attributes:
        about: What, such as ``pool``.
        mark: `WELL`, `DOUBT` or `WRONG`.
        said: What was found.
        remedy: What to do; empty if nothing is to be done.
    """

    about: str
    mark: str
    said: str
    remedy: str = ""


def examine(site: Site, *, send: bool = False) -> list[Checked]:
    """Look at everything; one thing that fails hides no other.

    Args:
        site: The installation.
        send: Send a test mail and call the webhook.
    """
    looks: tuple[tuple[str, Callable[[Site], Iterator[Checked]]], ...] = (
        ("Prefect server", _server),
        ("deployments", _deployments),
        ("secrets", _plain_secrets),
        ("pool", _pool),
        ("data store", _data_store),
        ("key file", _key_file),
        ("catalog", _catalog),
        ("vault", _vault),
        ("telling people", _telling),
    )
    found: list[Checked] = []
    for about, look in looks:
        found += _looked(about, look, site)
    if send:
        found += _looked("test message", _send, site)
    return found


def _looked(about: str, look: Callable[[Site], Iterator[Checked]], site: Site) -> Iterator[Checked]:
    try:
        yield from look(site)
    except LikenessError as problem:
        yield Checked(about, WRONG, str(problem))
    except Exception as problem:  # noqa: BLE001  # one look that fails must hide no other
        yield Checked(about, WRONG, f"could not be looked at: {type(problem).__name__}: {problem}")


def _server(_site: Site) -> Iterator[Checked]:
    api = str(PREFECT_API_URL.value() or "")
    if not api:
        yield Checked(
            "Prefect server",
            DOUBT,
            "no server is named: each program has one of its own, without schedules",
            "start `prefect server start` as a service and set PREFECT_API_URL",
        )
        return
    answer = httpx.get(f"{api}/health", timeout=_SECONDS, verify=_trusted())
    answer.raise_for_status()
    yield Checked("Prefect server", WELL, f"answers at {api}")
    yield from _login(api)
    if "date" in answer.headers:
        yield _clock("Prefect server", parsedate_to_datetime(answer.headers["date"]))
    yield from _database()


def _trusted() -> SSLContext:
    """Whom Prefect's own clients trust here."""
    return create_default_context(cafile=PREFECT_API_SSL_CERT_FILE.value() or None)


def _login(api: str) -> Iterator[Checked]:
    """Whether strangers are kept out: the API gives out every password in the blocks."""
    parts = urlsplit(api)
    here = parts.hostname in ("127.0.0.1", "::1", "localhost")
    asked = httpx.post(
        f"{api}/block_documents/filter", json={"limit": 1}, timeout=_SECONDS, verify=_trusted()
    )
    if asked.status_code in (401, 403):
        yield Checked("API login", WELL, "the API asks for a login")
    else:
        yield Checked(
            "API login",
            DOUBT if here else WRONG,
            "the API asks for no login: whoever reaches it reads the passwords of all blocks"
            + (", as any user of this machine does" if here else ""),
            "set PREFECT_SERVER_API_AUTH_STRING for the server and PREFECT_API_AUTH_STRING for"
            " workers and people; docs/security.md",
        )
    if not here and parts.scheme != "https":
        yield Checked(
            "API connection",
            WRONG,
            "the API is reached over a network without TLS: passwords travel in the clear",
            "put a TLS proxy before it and use https in PREFECT_API_URL; docs/security.md",
        )


def _database() -> Iterator[Checked]:
    """Prefect's own file, if it is on this machine: it holds the secrets, and their key."""
    home = Path(os.environ.get("PREFECT_HOME", str(Path.home() / ".prefect")))
    path = home / "prefect.db"
    if not path.is_file():
        return
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077 and stat.S_IMODE(home.stat().st_mode) & 0o011:
        yield Checked(
            "Prefect database",
            WRONG,
            f"{path} can be read by others (mode {mode:o}); it holds the blocks' secrets",
            f"chmod 700 {home}",
        )
    if not os.environ.get("PREFECT_SERVER_ENCRYPTION_KEY"):
        yield Checked(
            "Prefect database",
            DOUBT,
            f"the key that seals the secrets in {path} may lie in that same file",
            "give the server PREFECT_SERVER_ENCRYPTION_KEY from a file of root's; docs/security.md",
        )


def _clock(whose: str, moment: datetime) -> Checked:
    apart = abs((system_clock() - moment).total_seconds())
    if apart > _MAX_CLOCK_SECONDS:
        return Checked(
            f"clock of the {whose}",
            WRONG,
            f"it differs from this machine's by {apart:.0f} s",
            "let both be set by NTP",
        )
    return Checked(f"clock of the {whose}", WELL, "agrees with this machine's")


def _deployments(site: Site) -> Iterator[Checked]:
    if not PREFECT_API_URL.value():
        return
    causes = overdue_jobs(site.name, system_clock(), None, vault=bool(site.place_of("vault")))
    yield from (Checked("deployments", DOUBT, cause.sentence) for cause in causes)
    with get_client(sync_client=True) as client:
        mine = [
            each
            for each in deployed(client)
            if each.deployment.parameters.get("site", "main") == site.name
        ]
    there = {each.flow for each in mine}
    wanted = ("backup-job", "validate", "sweep", "watch")
    for lacking in (each for each in wanted if each not in there):
        yield Checked(
            "deployments", DOUBT, f"there is no deployment of {lacking}", "run `likeness apply`"
        )
    if not causes and there.issuperset(wanted):
        yield Checked("deployments", WELL, f"{counted(len(mine), 'deployment')}, all can run")


def _secrets_of(site: Site) -> set[str]:
    blocks: list[BaseModel] = []
    for role in ("xen_pool", "data_store", "vault"):
        block = getattr(site, role, None)
        if isinstance(block, BaseModel):
            blocks.append(block)
    values = [
        getattr(block, name).get_secret_value()
        for block in blocks
        for name in type(block).model_fields
        if isinstance(getattr(block, name), SecretStr)
    ]
    return {value for value in values if len(value) >= 6}


def _plain_secrets(site: Site) -> Iterator[Checked]:
    """Passwords that stand where everybody reads them: in parameters and job variables."""
    if not PREFECT_API_URL.value():
        return
    secrets = _secrets_of(site)
    with get_client(sync_client=True) as client:
        for each in deployed(client):
            deployment = each.deployment
            text = json.dumps([deployment.parameters, deployment.job_variables], default=str)
            if any(secret in text for secret in secrets):
                yield Checked(
                    "secrets",
                    WRONG,
                    f"deployment {deployment.name} has a password in its parameters in the clear",
                    "take it out, and change that password",
                )
                return
    yield Checked("secrets", WELL, "no password stands in a deployment in the clear")


def _pool(site: Site) -> Iterator[Checked]:
    block = site.xen_pool
    with block.open() as xen:
        yield Checked("pool", WELL, f"{xen.url}: {counted(len(list_vms(xen)), 'VM')}")
        yield _clock("pool", pool_clock(xen))
        facts = account_facts(xen)
    if not block.url.startswith("https://"):
        yield Checked("pool certificate", DOUBT, "the pool is reached without TLS", "use https://…")
    else:
        how = "pinned" if block.fingerprint else "signed by a trusted authority"
        yield Checked("pool certificate", WELL, f"it is {how}")
    if facts is None:
        yield Checked("pool account", DOUBT, "the pool does not say what the account may do")
    elif facts.lacks:
        yield Checked(
            "pool account",
            WRONG,
            f"{block.username} may not: {', '.join(facts.lacks)}",
            "give it the role vm-power-admin",
        )
    elif facts.too_much:
        yield Checked(
            "pool account",
            DOUBT,
            f"{block.username} may do more than a backup needs, such as {facts.too_much[0]}",
            "use an account with the role vm-power-admin; docs/security.md",
        )
    else:
        yield Checked("pool account", WELL, f"{block.username} may do what is needed, no more")


def _data_store(site: Site) -> Iterator[Checked]:
    block = site.data_store
    if block.read_only:
        with block.look():
            how = "verifies, without any key" if block.without_key else "opens"
            yield Checked("data store", WELL, f"{block.place}: {how}, and is only read from here")
        yield from _encrypted("data store", block)
        return
    with closing(block.connect()) as place:
        try_out(place)
        yield from _room("data store", place.space().total_bytes, place.space().free_bytes)
    with block.open() as store:
        yield Checked("data store", WELL, f"{block.place}: opens, takes and gives")
        owner, me = owner_of(store), site.installation
        if owner and owner != me:
            yield Checked(
                "data store",
                WRONG,
                f"another installation owns it ({owner[:8]})",
                "take it over with `likeness recover`, or name another store",
            )
    yield from _encrypted("data store", block)


def _encrypted(about: str, block: DataStoreShare | Vault) -> Iterator[Checked]:
    if not block.encrypt and not block.place.startswith("/"):
        yield Checked(
            f"{about} connection",
            DOUBT,
            "its connection may go unencrypted; the data is sealed, the password's proof is not",
            "switch on *Encrypt the connection* in its block",
        )


def _room(about: str, total: int, free: int) -> Iterator[Checked]:
    if not total or total > 1 << 60:
        return
    said = f"{readable_size(free)} of {readable_size(total)} are free"
    if free < _LEAST_FREE_BYTES:
        yield Checked(f"{about} room", WRONG, said, "make room: the next backups will not fit")
    elif free < total * _LEAST_FREE_SHARE:
        yield Checked(f"{about} room", DOUBT, said, "make room before it is full")
    else:
        yield Checked(f"{about} room", WELL, said)


def _key_file(site: Site) -> Iterator[Checked]:
    path = Path(site.data_store.key_file)
    facts = path.stat()
    mode = stat.S_IMODE(facts.st_mode)
    if site.data_store.without_key:
        yield Checked("key file", WELL, f"{path} is a vault file, and opens nothing")
    elif mode & 0o077:
        yield Checked(
            "key file", WRONG, f"others may use {path} (mode {mode:o})", f"chmod 600 {path}"
        )
    else:
        yield Checked("key file", WELL, f"{path} is its owner's alone")


def _catalog(site: Site) -> Iterator[Checked]:
    folder = Path(site.catalog.folder)
    probe = folder / f"doctor-{random_name()}"
    probe.touch(mode=0o600)
    probe.unlink()
    facts = os.statvfs(folder)
    yield Checked("catalog", WELL, f"{folder} can be written")
    yield from _room("catalog", facts.f_blocks * facts.f_frsize, facts.f_bavail * facts.f_frsize)
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & 0o022:
        yield Checked(
            "catalog", WRONG, f"others may write {folder} (mode {mode:o})", f"chmod 700 {folder}"
        )


def _vault(site: Site) -> Iterator[Checked]:
    vault = site.vault
    if vault is None:
        yield Checked(
            "vault",
            DOUBT,
            "this site has no vault: every version is in one place only",
            "add one; docs/install.md",
        )
        return
    with closing(vault.connect()) as second, closing(site.data_store.connect()) as first:
        try_out(second)
        require_second_place(first, second)
        yield Checked("vault", WELL, f"{vault.place}: takes and gives, and is another place")
        yield from _room("vault", second.space().total_bytes, second.space().free_bytes)
    store = site.data_store
    if store.username and (store.username, store.password) == (vault.username, vault.password):
        yield Checked(
            "vault account",
            DOUBT,
            "it is the data store's: whoever steals that reaches both",
            "give the vault an account of its own",
        )
    yield from _encrypted("vault", vault)


def _telling(site: Site) -> Iterator[Checked]:
    mail = site.mail
    if mail is None and not site.webhook:
        yield Checked(
            "telling people",
            WRONG,
            "nobody is told when something goes wrong",
            "add a mail server or a webhook; docs/install.md",
        )
    if mail is not None:
        within_timeout(mail.try_login, "the mail server", _SECONDS)
        yield Checked("mail", WELL, f"the server accepts us; to {', '.join(mail.recipients)}")
    if not site.ping_url:
        yield Checked(
            "dead man's ping",
            DOUBT,
            "nobody misses this installation when all of it is off",
            "set *Ping this address while all is well* in the Site block",
        )


def _send(site: Site) -> Iterator[Checked]:
    subject = f"Likeness: a test message of site {site.name}"
    body = "If you read this, people are told when something goes wrong."
    mail = site.mail
    if mail is not None:
        sent = mail
        within_timeout(
            lambda: sent.send(subject, body, message=random_name(), clock=system_clock),
            "the mail server",
        )
        yield Checked("test mail", WELL, f"sent to {', '.join(mail.recipients)}")
    if site.webhook:
        call_webhook(site, subject, body)
        yield Checked("test of the webhook", WELL, f"{site.webhook} took it")
