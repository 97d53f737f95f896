#!/bin/sh
# Make the virtual environment $1 with the first Python of 3.11 or later that is found; PYTHON=... names another.
set -eu

venv="$1"
python=""
for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11 python}; do
    if command -v "$candidate" >/dev/null 2>&1 &&
        "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
        python="$candidate"
        break
    fi
done
if [ -z "$python" ]; then
    found="$("${PYTHON:-python3}" --version 2>/dev/null || echo none)"
    echo "Python 3.11 or later is needed; found: $found. Install it, or name it: make PYTHON=/path/to/python3.11" >&2
    exit 1
fi

# Debian keeps the module that makes environments in a package of its own.
if ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
    package="python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
    echo "$python lacks the module venv; trying to install $package." >&2
    if [ "$(id -u)" = 0 ]; then
        runner="env"
    else
        runner="sudo -n env"
    fi
    if ! { $runner DEBIAN_FRONTEND=noninteractive apt-get update -qq &&
        $runner DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$package"; } >&2; then
        echo "Install it with: sudo apt-get install $package. Then run the same command again." >&2
        exit 1
    fi
fi

exec "$python" -m venv "$venv"
