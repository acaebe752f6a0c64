#!/usr/bin/env bash
# Fuzzes: every target, or those that are named, each for so many seconds; needs a nightly compiler.
#
# Usage: scripts/fuzz.sh [SECONDS] [TARGET…]     10 seconds each without; fuzz/README.md has the targets
#
# What is found stays in fuzz/artifacts, what was learnt in fuzz/corpus: neither is committed, see there. FUZZ_SANITIZER=address (or
# another) builds with a sanitizer: slower, and of use where there is unsafe code, in `shapes` alone and below `body`.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds="${1:-10}"
case "$seconds" in
    '' | *[!0-9]*)
        echo "scripts/fuzz.sh: SECONDS is ${seconds@Q}, expected a whole number" >&2
        exit 64
        ;;
esac
[ "$#" -eq 0 ] || shift

targets=("$@")
if [ "${#targets[@]}" -eq 0 ]; then
    mapfile -t targets < <(basename -s .rs fuzz/fuzz_targets/*.rs)
fi
for target in "${targets[@]}"; do
    if [ ! -f "fuzz/fuzz_targets/$target.rs" ]; then
        echo "scripts/fuzz.sh: no target ${target@Q} in fuzz/fuzz_targets" >&2
        exit 64
    fi
done

if ! cargo +nightly --version >/dev/null 2>&1; then
    echo "scripts/fuzz.sh: no nightly compiler: rustup toolchain install nightly" >&2
    exit 69
fi
cargo fuzz --version >/dev/null 2>&1 || cargo install --locked cargo-fuzz

log="$(mktemp)"
trap 'rm -f "$log"' EXIT
for target in "${targets[@]}"; do
    mkdir -p "fuzz/corpus/$target"
    options=("-max_total_time=$seconds" -max_len=4096 -timeout=20 -rss_limit_mb=4096 -print_final_stats=1)
    [ ! -f "fuzz/dictionaries/$target.dict" ] || options+=("-dict=fuzz/dictionaries/$target.dict")
    status=0
    # The first directory is written to, the others are only read. Without traced comparisons it is two to three times as fast:
    # inputs are choices, and what has to be spelt is in the dictionaries.
    cargo +nightly fuzz run --sanitizer "${FUZZ_SANITIZER:-none}" --no-trace-compares "$target" \
        "fuzz/corpus/$target" "fuzz/seeds/$target" -- "${options[@]}" >"$log" 2>&1 || status=$?
    if [ "$status" -ne 0 ]; then
        cat "$log" >&2
        exit "$status"
    fi
    echo "$target: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") executions in $seconds s"
done
