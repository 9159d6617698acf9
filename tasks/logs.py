"""Where a step says what it does: in its run's log, or where Python's own go without a run."""

import logging

from prefect import get_run_logger
from prefect.exceptions import MissingContextError

Logger = logging.Logger | logging.LoggerAdapter[logging.Logger]


def step_logger() -> Logger:
    """The log of the run that is under way; a recovery at a terminal is none."""
    try:
        return get_run_logger()
    except MissingContextError:
        return logging.getLogger("likeness")
