#!/usr/bin/env bash
# Makes what a release is: the static binary, packed, its SBOM, and checksums of both, in target/release-files.
#
# Usage: scripts/release.sh [--profile NAME]     NAME is release unless a trial wants it quicker
#
# The same sources, compiler and packages give the same bytes: paths are mapped away, times come from the last commit.
set -euo pipefail
cd "$(dirname "$0")/.."

profile=release
if [ "${1:-}" = --profile ]; then
    profile=$2
    shift 2
fi
if [ "$#" -gt 0 ]; then
    echo "scripts/release.sh: unknown argument $1" >&2
    exit 64
fi

version=$(cargo metadata --no-deps --format-version 1 | python3 -c '
import json, sys
print(next(package["version"] for package in json.load(sys.stdin)["packages"] if package["name"] == "fleetdrain"))')
# "## 0.1.0" or "## [0.1.0] - date": a release is told of before it is made. A trial may come before that.
if ! grep -Eq "^## \[?${version//./\\.}\]?( |\$)" CHANGELOG.md; then
    echo "scripts/release.sh: CHANGELOG.md has no section for $version, the version in Cargo.toml" >&2
    [ "$profile" != release ] || exit 65
fi

target=$(uname -m)-unknown-linux-musl
rustup target list --installed | grep -qx "$target" || rustup target add "$target"
if ! command -v musl-gcc >/dev/null; then
    echo "scripts/release.sh: no musl-gcc: apt-get install musl-tools" >&2
    exit 69
fi

SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH
# Absolute paths would make each machine's binary another one.
export RUSTFLAGS="--remap-path-prefix=$PWD=. --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=cargo -C target-feature=+crt-static"
export CFLAGS="-ffile-prefix-map=$PWD=. -ffile-prefix-map=${CARGO_HOME:-$HOME/.cargo}=cargo"
cargo build --locked --profile "$profile" --target "$target" --bin fleetdrain

built=${CARGO_TARGET_DIR:-target}/$target/$([ "$profile" = dev ] && echo debug || echo "$profile")/fleetdrain
if readelf -d "$built" | grep -q NEEDED; then
    echo "scripts/release.sh: $built is not static:" >&2
    readelf -d "$built" | grep NEEDED >&2
    exit 70
fi
[ "$("$built" --version)" = "fleetdrain $version" ]

out=${CARGO_TARGET_DIR:-target}/release-files
name=fleetdrain-$version-$target
rm -rf "$out"
mkdir -p "$out/$name"
cp "$built" README.md CHANGELOG.md LICENSE-APACHE LICENSE-MIT "$out/$name/"
cp -r deploy dashboards "$out/$name/"
tar -C "$out" --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" -cf - "$name" | gzip -n9 >"$out/$name.tar.gz"
rm -r "${out:?}/$name"
scripts/sbom.py "$target" >"$out/$name.cdx.json"
(cd "$out" && sha256sum -- * >SHA256SUMS && sha256sum -c --quiet SHA256SUMS)
ls -l "$out"
