"""Catch up: versions the store has and the catalog does not know, recorded.

A process may die after a version is in the store and before it is in the catalog; a store may be
older than the catalog. Either way the store is the truth.
"""

from prefect import get_run_logger, task

from blocks import Site
from catalog import versions as catalog_versions
from likeness.clock import system_clock
from likeness.errors import BadInput, Damaged
from likeness.model.ids import VersionId
from likeness.store.data_store import DataStore
from likeness.store.versions import read_version, record_names, vms
from tasks.remember import remember_version
from tasks.retries import STEP


@task(task_run_name="catch up with the store", **STEP)
def catch_up(*, site: Site) -> int:
    """Record every version the catalog does not know yet; how many there were.

    Raises:
        StoreMissing: There is no store.
        WrongKey: The key file opens another store.
        ShareUnreachable: The store does not answer; tried again.
        CatalogBusy: Another process holds the catalog; tried again.
    """
    catalog = site.catalog.ready(system_clock)
    known = catalog_versions.known_versions(catalog)
    found = 0
    with site.data_store.open() as store:
        for vm in vms(store):
            for name in record_names(store, vm):
                if VersionId(name.rpartition("-")[2]) not in known:
                    found += _remember(site, store, name)
    if found:
        get_run_logger().info("recorded %d versions that only the store knew", found)
    return found


def _remember(site: Site, store: DataStore, name: str) -> int:
    try:
        version = read_version(store, name)
    except Damaged as cause:
        get_run_logger().warning("%s; it is left out until it can be read", cause)
        return 0
    try:
        remember_version(site, store, version)
    except BadInput:  # the version before it is not known, so its difference says nothing
        remember_version(site, store, version, whole=True)
    return 1
