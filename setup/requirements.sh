#!/bin/sh
# Install the requirements file $2 into the environment of the Python $1: what pip says goes into a log beside that
# environment and is shown only if it fails; a dot every few seconds says that it goes on.
set -eu

python="$1"
file="$2"
log="$(dirname "$(dirname "$python")")/$(basename "$file" .txt).log"
size=""
if [ "$file" = requirements.txt ] && ! "$python" -c 'import torch' 2>/dev/null; then
    case "$(uname)" in
        Linux) size=": about 3 GB to download with CUDA, 600 MB with a CPU build of torch; some minutes" ;;
        *) size=": about 600 MB to download; some minutes" ;;
    esac
fi
printf 'Installing %s%s ' "$file" "$size" >&2
"$python" -m pip --disable-pip-version-check install -r "$file" >"$log" 2>&1 &
pip=$!
trap 'kill "$pip" 2>/dev/null; exit 130' INT TERM
while kill -0 "$pip" 2>/dev/null; do
    sleep 2
    printf . >&2
done
if wait "$pip"; then
    echo " done." >&2
else
    echo " failed. The end of $log:" >&2
    tail -n 15 "$log" >&2
    exit 1
fi
