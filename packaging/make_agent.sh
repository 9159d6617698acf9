#!/usr/bin/env bash
# Makes dist/likeness-agent: the agent, its Python and its C library in one file.
# Called by make; docs/decisions/0009-agent-executable.md says why so.
set -euo pipefail
cd "$(dirname "$0")/.."
work=build/agent
pins=requirements/executable.txt

if ! cmp -s $pins $work/pins.txt; then
  rm -rf $work
  mkdir -p $work
  "$(.venv/bin/python -c 'import sys; print(sys._base_executable)')" -m venv $work/venv
  $work/venv/bin/python -m pip --disable-pip-version-check --no-input -qq \
    install --require-hashes -r $pins </dev/null
  cp $pins $work/pins.txt
fi

PATH="$PWD/$work/venv/bin:$PATH"
export PYTHONHASHSEED=0 SOURCE_DATE_EPOCH=0 # two builds of the same parts are the same
pyinstaller --log-level ERROR --noconfirm --clean --workpath $work/work --distpath $work/dist packaging/agent.spec
mkdir -p dist
# staticx, with no moment of its own in the archive that it makes.
python - $work/dist/likeness-agent $work/likeness-agent <<'EOF'
import tarfile

from staticx.__main__ import main

as_found = tarfile.TarFile.gettarinfo


def dated(*given, **named):
    entry = as_found(*given, **named)
    entry.mtime = 0
    return entry


tarfile.TarFile.gettarinfo = dated
main()
EOF
chmod 755 $work/likeness-agent
mv $work/likeness-agent dist/likeness-agent
echo "dist/likeness-agent, $(du -h --apparent-size dist/likeness-agent | cut -f1), for Linux on x86-64."
echo "It brings the glibc of this machine ($(getconf GNU_LIBC_VERSION)) along and uses none of the machine it"
echo "runs on; that machine needs a kernel from 3.2 on, /proc, and a TMPDIR from which programs may be run."
