#!/bin/sh
# Makes the Python environment of this clone in .venv, once, with the exact versions of constraints.txt.
#
#   ./bootstrap.sh run     what the program needs
#   ./bootstrap.sh dev     that, and what tests and checks need
#
# Looks for Python 3.11 to 3.14. What Debian and Ubuntu pack apart (venv, or Python itself) is installed when run as
# root; otherwise the command to do so is named. pip is configured as the user has it. Costs nothing when nothing
# changed; several may run at once.
set -eu
cd "$(dirname "$0")"
want=${1:-run}

say() { printf '%s\n' "$*" >&2; }

# What the environment was made from; the clone's path is in its scripts.
digest() { { printf '%s %s\n' "$PWD" "$1"; cat pyproject.toml constraints.txt bootstrap.sh; } | sha256sum | cut -d' ' -f1; }

is_current() {
    [ -x .venv/bin/python ] || return 1
    for kind in "$want" dev; do
        if [ "$(cat ".venv/.made-$kind" 2>/dev/null)" = "$(digest "$kind")" ]; then
            .venv/bin/python -c '' 2>/dev/null && return 0
        fi
    done
    return 1
}

fits() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' >/dev/null 2>&1; }
has_venv() { "$1" -c 'import ensurepip, venv' >/dev/null 2>&1; }
candidates() { printf '%s\n' ${PYTHON:-} python3 python3.13 python3.12 python3.11 python3.14; }

# Prints the first Python that fits and can make an environment.
find_python() {
    for python in $(candidates); do
        if fits "$python" && has_venv "$python"; then "$python" -c 'import sys; print(sys.executable)'; return; fi
    done
    return 1
}

# Prints the packages to install: for a Python that lacks venv, else for a Python that apt knows.
missing_packages() {
    for python in $(candidates); do
        if fits "$python"; then
            "$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'
            return
        fi
    done
    for version in 3.13 3.12 3.11 3.14; do
        if [ -n "$(apt-cache madison "python$version-venv" 2>/dev/null)" ]; then
            echo "python$version python$version-venv"
            return
        fi
    done
    echo "python3.11 python3.11-venv"
}

install_python() {
    if ! command -v apt-get >/dev/null 2>&1; then
        say "no Python 3.11 to 3.14 with venv found (hint: install one, or name it: PYTHON=/path/to/python3.12)"
        exit 1
    fi
    if [ "$(id -u)" != 0 ]; then
        say "Python 3.11 to 3.14 with venv is needed; this installs it: sudo apt-get install $(missing_packages)"
        exit 1
    fi
    apt-get update -qq >&2 || say "apt-get update failed; trying with the lists at hand"
    packages=$(missing_packages)
    say "installing $packages"
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages >/dev/null
}

make_environment() {
    if ! fits .venv/bin/python || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        python=$(find_python) || { install_python; python=$(find_python) || { say "still no usable Python"; exit 1; }; }
        say "making .venv with $python"
        rm -rf .venv
        "$python" -m venv .venv
    fi
    say "installing the packages of constraints.txt (once; a minute or a few)"
    extra=""
    [ "$want" = dev ] && extra="[dev]"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".$extra" >&2
    digest "$want" > ".venv/.made-$want"
}

case $want in run | dev) ;; *) say "usage: ./bootstrap.sh run|dev"; exit 2 ;; esac
is_current && exit 0
exec 9>>.bootstrap.lock
if command -v flock >/dev/null 2>&1; then flock 9; fi       # another one may be at it, and may have done it
is_current || make_environment
