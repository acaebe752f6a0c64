#!/usr/bin/env bash
# Throws bombs at the drain for a few seconds, four and sixteen at a time, and looks how much memory it takes: a short form of
# `loadtest hostile`.
#
# Usage: scripts/hostile.sh [FOLDER]      where the binaries fleetdrain and loadtest are, by default target/debug
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-target/debug}

for bombs in 4 16; do
    echo "\$ loadtest hostile --bombs $bombs"
    "$folder/loadtest" hostile --drain "$folder/fleetdrain" --seconds 2 --rate 2000 --only '10 GiB' --bombs "$bombs"
done
