"""The agent: transfers disks of the machine it runs on, as a controller at its other end orders.

It is started by the controller over SSH, without arguments: all it is told, accounts too, comes on
standard input.
"""

import sys

from likeness.agent.working import work

if __name__ == "__main__":
    sys.exit(work(sys.stdin.fileno(), sys.stdout.fileno()))
