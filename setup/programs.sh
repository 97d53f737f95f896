#!/bin/sh
# Make sure that sox and ffmpeg are there: install them where that is allowed, or say the command and stop.
# SOX_PATH and FFMPEG_PATH (a folder or the program itself) stand in for the PATH, as in the program.
set -eu

present() {  # present PROGRAM WHERE: WHERE is what SOX_PATH or FFMPEG_PATH says, or empty
    if [ -n "$2" ]; then
        [ -x "$2/$1" ] || { [ -f "$2" ] && [ -x "$2" ]; }
    else
        command -v "$1" >/dev/null 2>&1
    fi
}

missing=""
present sox "${SOX_PATH:-}" || missing="sox"
present ffmpeg "${FFMPEG_PATH:-}" || missing="${missing:+$missing }ffmpeg"
[ -n "$missing" ] || exit 0

if command -v apt-get >/dev/null 2>&1; then
    install="apt-get update && apt-get install -y $missing"
    if [ "$(id -u)" = 0 ]; then
        runner="env"
    elif sudo -n true 2>/dev/null; then
        runner="sudo -n env"
    else
        runner=""
        install="sudo apt-get update && sudo apt-get install -y $missing"
    fi
    if [ -n "$runner" ]; then
        echo "Installing $missing with apt-get." >&2
        # $missing is split on purpose: one argument a package.
        if $runner DEBIAN_FRONTEND=noninteractive apt-get update -qq >&2 &&
            $runner DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $missing >&2; then
            exit 0
        fi
    fi
elif command -v brew >/dev/null 2>&1; then
    install="brew install $missing"
    echo "Installing $missing with Homebrew." >&2
    if brew install $missing >&2; then
        exit 0
    fi
elif [ "$(uname)" = Darwin ]; then
    install="brew install $missing   (Homebrew itself: https://brew.sh)"
else
    install="the package manager of your system, for the packages: $missing"
fi

echo "Missing: $missing. Install with: $install" >&2
echo "Then run the same command again." >&2
exit 1
