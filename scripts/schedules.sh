#!/usr/bin/env bash
# Runs threads in every order that a scheduler thinks of, at each lock, counter and wake of queue, admission, hand-over and budget;
# see src/schedules.rs. About a minute. By hand: it builds the library and what it needs once more, with shuttle's locks in place of
# ours, which takes longer than that.
#
# Usage: scripts/schedules.sh [ROOM…]      budget, admission, queue, handover, sinks; or one of their tests, as queue::NAME
#
# SHUTTLE_ITERATIONS: how many of each test, at random and by priorities (4000). What fails prints SHUTTLE_RANDOM_SEED, and a schedule
# for SHUTTLE_REPLAY: with either, and the test alone, it fails again.
set -euo pipefail
cd "$(dirname "$0")/.."

[ "$#" -gt 0 ] || set -- ''
RUSTFLAGS="${RUSTFLAGS:-} --cfg shuttle" \
    cargo test --lib --no-default-features --features sinks --target-dir target/shuttle -- "${@/#/schedules::}"
