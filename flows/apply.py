"""`likeness apply`: make a site as its file says, and change only what differs."""

import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from httpx import HTTPError
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL

from blocks import CatalogFile, DataStoreShare, Site, Vault, XenPool
from catalog import schema
from flows.new_site import NewSite, set_up_site
from flows.set_up import sheet
from flows.site_changes import (
    Change,
    block_changes,
    limit_changes,
    pool_changes,
    site_block,
)
from flows.site_deployments import deployment_changes, left_over, wanted_deployments
from flows.site_file import Secrets, SiteFile, blocks_of, read_site_file
from likeness.cli.options import PATH, Option, Options, verb
from likeness.cli.running import run_alone
from likeness.cli.terminal import ask, ask_secret, coloured, say, say_json, tell
from likeness.clock import system_clock
from likeness.errors import BadInput, ServerUnreachable
from likeness.model.sizes import counted
from likeness.stopping import StopToken
from tasks.overdue_jobs import deployed
from tasks.start_page import show_start

_STORE = "data store"


def plan_site(said: SiteFile, client: SyncPrefectClient, secrets: Secrets) -> list[Change]:
    """All that differs from what a site file says, in the order in which it can be changed.

    Raises:
        BadInput: The file says what cannot be.
    """
    blocks, wanted = blocks_of(said, secrets), wanted_deployments(said)
    site = site_block(said, blocks)
    found: list[Change] = []
    data_store, catalog = blocks[f"{said.site}-data-store"], blocks[f"{said.site}-catalog"]
    if isinstance(data_store, DataStoreShare) and isinstance(catalog, CatalogFile):
        found += _store_changes(said, data_store, catalog)
    found += block_changes({**blocks, said.site: site})
    found += pool_changes(client, said.work_pools)
    found += limit_changes(client, said.limits)
    found += deployment_changes(client, wanted)
    ours = [
        each.deployment
        for each in deployed(client)
        if each.deployment.parameters.get("site") == said.site
    ]
    found += left_over(client, ours, wanted)
    return found


def _store_changes(
    said: SiteFile, data_store: DataStoreShare, catalog: CatalogFile
) -> Iterator[Change]:
    """A store that was never made, or a catalog that a new machine lacks."""
    if not Path(data_store.key_file).exists():
        made = f"key file {data_store.key_file}; its recovery words are shown once"
        yield Change(_STORE, data_store.place, "new", (made,), lambda: None)  # see `_set_up`
    elif not schema.exists(catalog.file):
        yield Change("catalog", catalog.folder, "new", (), lambda: catalog.ready(system_clock))


def _set_up(said: SiteFile, secrets: Secrets) -> NewSite:
    """A new store, with its keys, catalog and blocks: everything is looked at before it is made."""
    blocks = blocks_of(said, secrets)
    pool, store = blocks[f"{said.site}-xen-pool"], blocks[f"{said.site}-data-store"]
    catalog, vault = blocks[f"{said.site}-catalog"], blocks.get(f"{said.site}-vault")
    if not (
        isinstance(pool, XenPool)
        and isinstance(store, DataStoreShare)
        and isinstance(catalog, CatalogFile)
    ):
        raise TypeError(said.site)
    return set_up_site(
        said.site,
        pool=pool,
        data_store=store,
        folder=Path(catalog.folder),
        vault=vault if isinstance(vault, Vault) else None,
    )


def run(options: Options, _stop: StopToken) -> int:
    """Show what differs, ask, and change it."""
    said = read_site_file(options.file)
    with asking_prefect() as client:
        secrets = Secrets()
        changes = _kept(plan_site(said, client, secrets), options)
        _show(changes, options)
        if not changes or options.plan:
            return 1 if changes else 0
        _confirmed(options)
        secrets = Secrets(
            lambda what: ask_secret(f"Secret {what}"), _to_ask(changes, said, secrets)
        )
        if any(each.kind == _STORE for each in changes):
            made = _set_up(said, secrets)
            say(sheet(made.site.data_store.place, made))
        for change in _kept(plan_site(said, client, secrets), options):
            change.do()  # what was made stays if a later one fails; a second try goes on
    show_start(said.site, site=Site.named(said.site))
    tell(f"site {said.site} is as {options.file} says; `likeness doctor` looks whether it works")
    return 0


def _kept(changes: list[Change], options: Options) -> list[Change]:
    """All but what only goes when that was asked for."""
    if options.prune:
        return changes
    for each in changes:
        if each.what == "removed":
            tell(f"{each.kind} {each.name} is no longer in the file; --prune removes it")
    return [each for each in changes if each.what != "removed"]


def _to_ask(changes: list[Change], said: SiteFile, secrets: Secrets) -> frozenset[str]:
    """The secrets of blocks that are new: of those that are saved they stay as they are."""
    new = {each.name for each in changes if each.what == "new"}
    of = {
        "pool": f"{said.site}-xen-pool",
        "store": f"{said.site}-data-store",
        "vault": f"{said.site}-vault",
        "mail": f"{said.site}-mail-server",
    }
    return frozenset(each for each in secrets.unknown if of[each.partition(".")[0]] in new)


def _show(changes: list[Change], options: Options) -> None:
    if options.as_json:
        say_json(
            [
                {
                    "kind": each.kind,
                    "name": each.name,
                    "what": each.what,
                    "differences": each.differences,
                }
                for each in changes
            ]
        )
        return
    colours = {"+": "green", "-": "red", "~": "yellow"}
    for change in changes:
        for line in change.lines():
            say(coloured(line, colours.get(line[0], "white")))
    say(f"{counted(len(changes), 'change')}" if changes else "nothing differs")


def _confirmed(options: Options) -> None:
    at_terminal = sys.stdin is not None and sys.stdin.isatty()
    if not at_terminal or options.yes:
        return
    if ask("Do this? Then write yes").strip().lower() != "yes":
        raise BadInput("nothing was changed")


@contextmanager
def asking_prefect() -> Generator[SyncPrefectClient, None, None]:
    """A client of the server of this site.

    Raises:
        ServerUnreachable: It does not answer, or not to us.
    """
    where = PREFECT_API_URL.value()
    if not where:
        raise BadInput(
            "which Prefect server is meant? start one with `prefect server start`, and say where:"
            " export PREFECT_API_URL=http://127.0.0.1:4200/api"
        )
    try:
        with get_client(sync_client=True) as client:
            yield client
    except PrefectHTTPStatusError as cause:
        raise ServerUnreachable(
            f"the Prefect server at {where} answers with {cause.response.status_code}; see its log,"
            " and PREFECT_API_AUTH_STRING if it asks for a login"
        ) from cause
    except (HTTPError, OSError) as cause:
        raise ServerUnreachable(
            f"the Prefect server at {where} does not answer; start it with `prefect server start`,"
            " or correct PREFECT_API_URL"
        ) from cause


COMMAND = verb(
    "apply",
    "Make a site as its file says, and change only what differs. The file names where secrets come"
    " from; it holds none. What differs is shown first; docs/install.md describes the file.",
    run,
    [
        click.Argument(["file"], type=PATH, metavar="[FILE]", default="site.yaml"),
        Option("--plan", is_flag=True, help="only show what differs; exit code 1 if anything does"),
        Option("--yes", is_flag=True, help="do not ask before it is done"),
        Option("--prune", is_flag=True, help="remove deployments that are no longer in the file"),
        Option("--json", "as_json", is_flag=True, help="what differs as a JSON document"),
    ],
)

if __name__ == "__main__":
    sys.exit(run_alone(COMMAND))
