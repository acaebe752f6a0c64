#!/usr/bin/env bash
# Runs threads in every order that a scheduler thinks of, at each lock, counter and wake of queue, admission, hand-over and budget;
# see src/schedules.rs. Two minutes and a half, and that of a build of our own code with shuttle's locks in place of ours.
#
# Usage: scripts/schedules.sh [ROOM…]      budget, admission, queue, handover, sinks; or one of their tests, as queue::NAME
#
# SHUTTLE_ITERATIONS: how many of each test, at random and by priorities (4000). What fails prints SHUTTLE_RANDOM_SEED, and a schedule
# for SHUTTLE_REPLAY: with either, and the test alone, it fails again.
set -euo pipefail
cd "$(dirname "$0")/.."

# A wrapper, and the whole workspace: what it depends on is then that of all other tests.
tests=$(
    RUSTC_WORKSPACE_WRAPPER="$PWD/scripts/with_shuttle.sh" \
        cargo test --workspace --all-features --lib --no-run --message-format json-render-diagnostics |
        sed -n 's/.*"executable":"\([^"]*\)".*/\1/p'
)
[ "$#" -gt 0 ] || set -- ''
"$tests" "${@/#/schedules::}"
