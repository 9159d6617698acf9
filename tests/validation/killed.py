"""A validation in a process of its own, slow enough to be killed: `python -m … SITE RUN`."""

import json
import sys
import time
from pathlib import Path

from prefect.logging import disable_run_logger

from blocks import CatalogFile, DataStoreShare, Site
from likeness.model.ids import RunId
from likeness.stopping import StopToken
from likeness.transport.local import LocalTransport
from tasks import proving
from tasks.claims import run_claimed
from tasks.validate import ProofAttempts, prove_due


def main() -> None:
    """Validate everything, half a second a pack, recording each."""
    places = json.loads(Path(sys.argv[1]).read_text())
    site = Site(
        xen_pool="not needed here",
        data_store=DataStoreShare(place=places["place"], key_file=places["key_file"]),
        catalog=CatalogFile(folder=places["folder"]),
    )
    run = RunId(sys.argv[2])
    proving._PROOFS_AT_ONCE = 1
    quick = LocalTransport.read

    def slow(self: LocalTransport, name: str, offset: int = 0, length: int | None = None) -> bytes:
        if name.startswith("packs/"):
            time.sleep(float(sys.argv[3]))
        return quick(self, name, offset, length)

    LocalTransport.read = slow  # type: ignore[method-assign]
    with disable_run_logger(), run_claimed(site, run):
        found = prove_due.fn(None, run, None, site=site, stop=StopToken(), attempts=ProofAttempts())
    print(found.packs, found.good)


if __name__ == "__main__":
    main()
