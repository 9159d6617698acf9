"""What Prefect is told before it is imported; whoever set something else keeps it."""

import os

DEFAULTS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",  # no process of ours calls Prefect's makers
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "240",  # 20 s are few on a busy machine
    "PREFECT_SERVER_DATABASE_TIMEOUT": "60",  # a query that waits for its turn at SQLite
    "PREFECT_CLIENT_MAX_RETRIES": "10",  # a server whose database is locked answers 503
}


def apply() -> None:
    """Set what nobody set."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)


apply()
