"""See, check and restore a data store with nothing but Python: ``likeness --help``.

Installed, the command is called ``likeness``; ``python -m likeness`` is the same.
"""

import subprocess
import sys

from likeness.cli.running import main


def run() -> int:
    """What the installed command does; its exit code."""
    if sys.argv[1:2] == ["recover"]:  # needs the whole of Likeness, not the engine alone
        return subprocess.call([sys.executable, "-m", "flows.recover", *sys.argv[2:]])  # noqa: S603
    return main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(run())
