#!/usr/bin/env bash
# Builds everything and measures the whole table of targets: figure, target, measured, verdict.
#
# Usage: loadtest/targets.sh [--long] [--only TEXT] [--dry-run]
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}/release
if [[ " $* " == *" --dry-run "* && -x $target/loadtest ]]; then
    exec "$target/loadtest" targets --drain "$target/fleetdrain" "$@"
fi
cargo build --release --package fleetdrain --bin fleetdrain --example count_lines
cargo build --release --package loadtest
exec "$target/loadtest" targets --drain "$target/fleetdrain" "$@"
