"""`likeness metrics`: the figures of a site for Prometheus, printed or served."""

import sys

from prometheus_client import CollectorRegistry, start_http_server

from blocks import Site
from likeness.cli.options import PORT, Option, Options, verb
from likeness.cli.running import run_alone
from likeness.cli.terminal import say, tell
from likeness.stopping import StopToken
from tasks.metrics import SiteMetrics, metrics_text


def run(options: Options, stop: StopToken) -> int:
    """Print them once, or serve them until stopped."""
    site = Site.named(options.site)
    if options.port is None:
        say(metrics_text(site).rstrip("\n"))
        return 0
    registry = CollectorRegistry()
    registry.register(SiteMetrics(site))
    server, thread = start_http_server(options.port, options.address, registry)
    tell(f"http://{options.address}:{server.server_port}/metrics; stop with Ctrl-C")
    try:
        while not stop.wait(3600):
            pass
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    return 0


COMMAND = verb(
    "metrics",
    "Print the figures of a site in the text format of Prometheus, such as for a textfile"
    " collector; with --port they are served. docs/grafana.json is a board of them.",
    run,
    [
        Option("--site", default="main", help="name of the Site block (main)"),
        Option("--port", type=PORT, metavar="N", help="serve them here until stopped"),
        Option("--address", default="127.0.0.1", help="to listen at (127.0.0.1)"),
    ],
)

if __name__ == "__main__":
    sys.exit(run_alone(COMMAND))
