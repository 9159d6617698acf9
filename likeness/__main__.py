"""See, check and restore a data store with nothing but Python: ``likeness --help``.

Installed, the command is called ``likeness``; ``python -m likeness`` is the same.
"""

import sys

from likeness.cli.running import main


def run() -> int:
    """What the installed command does; its exit code."""
    return main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(run())
