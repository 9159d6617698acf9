"""See, check and restore a data store with nothing but Python: ``python -m likeness --help``."""

import sys

from likeness.cli.running import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
