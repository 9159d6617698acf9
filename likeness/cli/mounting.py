"""The command that shows versions as folders of raw images."""

import tempfile
from pathlib import Path

from likeness.cli.opening import opened
from likeness.cli.options import Options
from likeness.cli.terminal import printable, say, tell
from likeness.model.choosing import looks
from likeness.serving.mounting import Mounted, VersionTree, require_fuse
from likeness.stopping import StopToken
from likeness.store.check.recorded import recorded_versions
from likeness.store.read.versions import read_version_at


def mount(options: Options, stop: StopToken) -> int:
    """Mount until somebody stops it or unmounts the folder; nothing is left behind."""
    require_fuse()
    store = opened(options)
    recorded = recorded_versions(store).versions
    versions = [read_version_at(store, name, lies_at) for name, lies_at in recorded.items()]
    if options.vm is not None:
        versions = [v for v in versions if looks(options.vm) in looks(v.record.vm_name)]
    with tempfile.TemporaryDirectory(prefix="likeness-", dir=options.scratch) as scratch:
        tree = VersionTree(store, versions, Path(scratch), lambda text: tell(printable(text)))
        with Mounted(tree, options.folder) as mounted:
            say(f"{len(versions)} versions are in {options.folder}")
            tell("stop with Ctrl-C, or unmount the folder")
            while mounted.is_there and not stop.wait(0.5):
                pass
    return 0
