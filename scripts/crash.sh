#!/usr/bin/env bash
# Kills the drain under load for half a minute, and judges what is there: a short form of each run that loadtest/README.md tells of.
#
# Usage: scripts/crash.sh [FOLDER]      where the binaries fleetdrain and loadtest are, by default target/debug
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-target/debug}

crash() {
    echo "\$ loadtest crash $*"
    "$folder/loadtest" crash --drain "$folder/fleetdrain" --rate 8000 --life 250 "$@"
}

crash --kills 10 --readers tail
crash --kills 6 --readers logs --no-key
crash --kills 6 --readers queue
crash --kills 4 --signal term
crash --kills 2 --flip 5
if command -v strace >/dev/null; then
    crash --kills 3 --inject fsync-once
    crash --kills 3 --inject write-eio
else
    echo "scripts/crash.sh: no strace here: a disk that fails was NOT tried" >&2
fi

# What is kept in memory is lost, and that must be found.
if crash --kills 3 --no-spool >/dev/null 2>&1; then
    echo "scripts/crash.sh: a drain without a spool lost nothing: the harness sees nothing" >&2
    exit 1
fi
