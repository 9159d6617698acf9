"""Run the lab from a shell: `python -m lab serve ...`, `python -m lab write ...`."""

import sys

from lab.cli import main

sys.exit(main())
