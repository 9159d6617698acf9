"""`python -m bench [NAME …]`: run benchmarks, one process each; the short one by default."""

import argparse
import subprocess
import sys

BENCHMARKS = {
    "data_path": "first backup, unchanged, 2 % changed, validate, restore, through the engine",
    "validate_speed": "validation beside the sum of its parts: read, open, decompress, hash",
    "scale_out": "packs proved by one worker and by two, each pinned to a core, without a catalog",
    "restore_speed": "restore beside the sum of its parts, memory, and a version over NBD",
    "locating": "where a disk's chunks lie, by the catalog, of 100 million (3 GB of disk)",
    "peers": "disks of VMs through Likeness, borg and restic (those that are installed)",
    "growth": "each step by size of the disk, to 1 TiB and a million chunks (10 minutes)",
    "sources": "whole jobs, source direct and enhanced, side by side (needs samba)",
    "stages": "each step by source and place, stage by stage, with the bottleneck (needs samba)",
    "nights": "what a night costs after 1 to 365 versions of a VM",
    "orchestration": "what a job and each VM cost beside their data, with a Prefect server",
    "smb_throughput": "sealed packs to a real smbd, beside smbclient put (needs samba)",
    "recovery": "a lost catalog, of a copy and of the store alone, by number of versions",
    "catalog_maps": "two ways of keeping block maps in the catalog",
}
_BY_DEFAULT = ("data_path",)


def main() -> int:
    """Run what was asked for."""
    listing = "\n".join(f"  {name:16} {what}" for name, what in BENCHMARKS.items())
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=f"Benchmarks:\n{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: data_path")
    names = parser.parse_args().names or _BY_DEFAULT
    unknown = sorted(set(names) - set(BENCHMARKS))
    if unknown:
        parser.error(f"there is no benchmark {unknown[0]!r}")
    failed = 0
    for name in names:
        failed |= subprocess.run([sys.executable, "-m", f"bench.{name}"], check=False).returncode
    return failed


if __name__ == "__main__":
    sys.exit(main())
