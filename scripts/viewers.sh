#!/usr/bin/env bash
# Has two hundred viewers stop reading, and looks whether each is told exactly what it missed, and cut off where it never reads on: a
# short form of `loadtest viewers`.
#
# Usage: scripts/viewers.sh [FOLDER]      where the binaries fleetdrain and loadtest are, by default target/debug
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-target/debug}

echo "\$ loadtest viewers --viewers 200"
"$folder/loadtest" viewers --drain "$folder/fleetdrain" --viewers 200 --rounds 1 --stalled-seconds 1 --rate 5000
