#!/usr/bin/env bash
# Makes or refreshes .venv from requirements/dev.txt, then installs the project itself, editable.
# Called by make; needs Python 3.11 or newer (PYTHON=... chooses one).
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '%s\n' "$*" >&2; }
is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
    if is_new_enough "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  say "Likeness needs Python 3.11 or newer; install it, or name it with make PYTHON=/path/to/python."
  return 1
}

can_make_venvs() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }

require_venv() { # python: Debian keeps the module in a package of its own
  local package
  can_make_venvs "$1" && return
  package=$("$1" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "Installing the Debian package $package"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update </dev/null >&2 || true
    apt-get -qq install --yes --no-install-recommends "$package" </dev/null >&2 || true
  fi
  can_make_venvs "$1" && return
  say "This Python cannot make virtual environments: install the package $package (or python3-venv)."
  return 1
}

is_ours() { # a moved or half-made environment is made again
  [ -x .venv/bin/python ] &&
    .venv/bin/python -c "import os, pip, sys; sys.exit(os.path.realpath(sys.prefix) != os.path.realpath('.venv'))" 2>/dev/null &&
    [ "$(cat .venv/made-for 2>/dev/null)" = "$PWD" ]
}

if ! is_ours; then
  python=$(find_python)
  require_venv "$python"
  say "Making .venv and filling it from requirements/dev.txt (once, a minute or two) ..."
  "$python" -m venv --clear .venv
  echo "$PWD" >.venv/made-for
  rm -f .venv/pins.txt
fi

pip=(.venv/bin/python -m pip --disable-pip-version-check --no-input -qq)
if ! cmp -s requirements/dev.txt .venv/pins.txt; then
  # The same file as constraints: it also binds what is asked for with extras.
  "${pip[@]}" install --require-hashes -r requirements/dev.txt -c requirements/dev.txt </dev/null
  cp requirements/dev.txt .venv/pins.txt
fi
"${pip[@]}" install --no-deps --no-build-isolation -e . </dev/null
# Processes of ours begin in half the time, also where PYTHONDONTWRITEBYTECODE is set.
.venv/bin/python -m compileall -q flows tasks blocks catalog likeness lab >&2
touch .venv/ready
