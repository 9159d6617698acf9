"""The addresses: Prefect blocks; configuration and secrets, nothing else."""

import blocks.about_prefect  # noqa: F401  # before anything imports Prefect
from blocks.catalog_file import CatalogFile
from blocks.data_store import DataStoreShare, Vault
from blocks.guest import Guest
from blocks.mail import Mail
from blocks.site import Site, SiteBlock
from blocks.xen_pool import XenPool

__all__ = [
    "CatalogFile",
    "DataStoreShare",
    "Guest",
    "Mail",
    "Site",
    "SiteBlock",
    "Vault",
    "XenPool",
]
