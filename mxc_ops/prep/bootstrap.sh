# shellcheck shell=sh
# Sourced by quickstart and run-tests, from the top of the checkout: makes or updates the Python environment in
# .venv, from nothing but a Debian system.

say() { printf '%s\n' "$@"; }

# stop MESSAGE [FIX]
stop() {
    printf 'error: %s\n' "$1" >&2
    [ -z "${2-}" ] || printf 'fix:   %s\n' "$2" >&2
    exit 1
}

can_be_root() { [ "$(id -u)" = 0 ] || { command -v sudo >/dev/null && sudo -n true 2>/dev/null; }; }

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi; }

# logged TITLE FIX COMMAND…: shows the command's output only when it fails
logged() {
    title=$1 fix=$2
    shift 2
    log=$(mktemp)
    if "$@" >"$log" 2>&1; then
        rm -f "$log"
    else
        cat "$log" >&2
        rm -f "$log"
        stop "$title failed: $*" "$fix"
    fi
}

# install_packages PACKAGE…: by apt, with the index refreshed first (a fresh image has none)
install_packages() {
    command -v apt-get >/dev/null || stop "$* must be installed, and there is no apt-get here" \
        "install Python 3.11 or later with its venv module, then start $0 again"
    by_hand="sudo apt-get update && sudo apt-get install -y --no-install-recommends $*"
    can_be_root || stop "installing $* needs root, and 'sudo -n' does not work here" "$by_hand"
    say "installing $*"
    as_root apt-get -q -o DPkg::Lock::Timeout=60 update >/dev/null 2>&1 || say "note: apt-get update failed, using the index as it is"
    logged "installing $*" "$by_hand" as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get -q -y -o DPkg::Lock::Timeout=60 --no-install-recommends install "$@"
}

# usable_python PYTHON: version 3.11 or later, able to make environments (Debian splits ensurepip off)
usable_python() {
    "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

# The system's Python is preferred: every user may execute it, which a Python below somebody's home does not offer.
find_python() {
    if ! usable_python /usr/bin/python3; then
        if can_be_root || ! usable_python python3; then install_packages python3 python3-venv; fi
    fi
    for python in /usr/bin/python3 python3; do
        if usable_python "$python"; then return; fi
    done
    stop "no Python 3.11 or later with its venv module" "install one (Debian 12: apt-get install python3 python3-venv)"
}

# What was asked to be installed: the stamp differs when any of it differs.
environment_stamp() {
    { pwd -P; printf '%s\n' "$1"; .venv/bin/python -VV; cat pyproject.toml constraints.txt; } 2>&1 | sha256sum
}

# make_environment run|dev: sets environment_state to "made", "updated" or "unchanged"
make_environment() {
    level=$1
    environment_state=unchanged
    if ! .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        find_python
        say "making .venv with $python"
        logged "making .venv" "remove .venv and start $0 again" "$python" -m venv --clear .venv
        environment_state=made
    fi
    if [ "$(cat ".venv/installed-$level" 2>/dev/null)" != "$(environment_stamp "$level")" ]; then
        install_project "$level"
        environment_stamp "$level" >".venv/installed-$level"
        [ "$environment_state" = made ] || environment_state=updated
    fi
    .venv/bin/python -m compileall -q mxc_ops backends vm_images >/dev/null || true
}

# What the module of libvirt is built with; there is no binary package of it.
install_headers() {
    missing=
    command -v gcc >/dev/null || missing="$missing gcc"
    command -v pkg-config >/dev/null || missing="$missing pkg-config"
    pkg-config --exists libvirt 2>/dev/null || missing="$missing libvirt-dev"
    headers=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("include"))')
    [ -e "$headers/Python.h" ] || missing="$missing python3-dev"
    # shellcheck disable=SC2086 - names, one word each
    [ -z "$missing" ] || install_packages $missing
}

install_project() {
    say "installing the Python packages"
    requirements=.venv/requirements.txt
    extras=prep,schema
    : >"$requirements"
    if [ "$1" = dev ]; then
        install_headers
        extras=$extras,libvirt
        .venv/bin/python -c 'import pathlib, tomllib
for line in tomllib.loads(pathlib.Path("pyproject.toml").read_text())["dependency-groups"]["dev"]: print(line)' >"$requirements"
    fi
    # The variable reaches pip's isolated build as well, so that the build back end is pinned too.
    logged "installing the Python packages" "see the messages of pip above; is the package index reachable?" \
        env PIP_CONSTRAINT="$PWD/constraints.txt" .venv/bin/python -m pip install --quiet --disable-pip-version-check \
        -r "$requirements" -e ".[$extras]"
    # A source without bytecode costs every start of the command 1 ms; some packages carry files that do not compile.
    .venv/bin/python -m compileall -q -j 0 .venv/lib/python3*/site-packages >/dev/null 2>&1 || true
}
