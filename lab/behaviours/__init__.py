"""What messages do beyond reading and writing fields: one module per family of classes."""

from importlib import import_module

FAMILIES = (
    "sessions",
    "events",
    "tasks",
    "vm_life",
    "vm_power",
    "vm_copies",
    "vm_settings",
    "migration",
    "switches",
    "vbd",
    "vdi",
    "vdi_tracking",
    "vif",
    "network",
    "storage",
    "host",
    "pool",
    "others",
    "access",
    "data_sources",
    "ha",
    "host_life",
    "certificates",
    "services",
    "interfaces",
    "vm_extras",
)


def load_all() -> None:
    """Import every family, so that each has declared its messages."""
    for family in FAMILIES:
        import_module(f"{__name__}.{family}")
