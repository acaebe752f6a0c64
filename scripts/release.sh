#!/usr/bin/env bash
# Makes what a release is: the static binary, packed, its SBOM, and checksums of both, in target/release-files.
#
# Usage: scripts/release.sh [--trial] [--profile NAME | --binary FILE] [--out DIR]
#
#   --trial         no release: what one must have, a section in CHANGELOG.md and a static binary, is only asked for
#   --profile NAME  of the build; release unless a trial wants it quicker
#   --binary FILE   packs this one and builds nothing
#   --out DIR       where to; it must not be there yet
#
# The same sources, compiler and packages give the same bytes: paths are mapped away, times come from the last commit.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    echo "scripts/release.sh: $1" >&2
    exit 64
}

trial=no profile=release built='' out=${CARGO_TARGET_DIR:-target}/release-files
while [ "$#" -gt 0 ]; do
    case $1 in
        --trial) trial=yes && shift && continue ;;
        --profile | --binary | --out) [ "$#" -gt 1 ] || usage "$1 takes a value" ;;
        *) usage "unknown argument $1" ;;
    esac
    case $1 in
        --profile) profile=$2 ;;
        --binary) built=$2 ;;
        --out)
            out=$2
            [ ! -e "$out" ] || usage "--out $out is there already"
            ;;
    esac
    shift 2
done

# What a release may not do without, with the exit code $1; a trial is told.
required() {
    echo "scripts/release.sh: $2" >&2
    [ "$trial" = yes ] || exit "$1"
}

version=$(cargo metadata --no-deps --format-version 1 | python3 -c '
import json, sys
print(next(package["version"] for package in json.load(sys.stdin)["packages"] if package["name"] == "fleetdrain"))')
# "## 0.1.0" or "## [0.1.0] - date": a release is told of before it is made.
grep -Eq "^## \[?${version//./\\.}\]?( |\$)" CHANGELOG.md ||
    required 65 "CHANGELOG.md has no section for $version, the version in Cargo.toml"

target=$(uname -m)-unknown-linux-musl
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH

build() {
    rustup target list --installed | grep -qx "$target" || rustup target add "$target"
    if ! command -v musl-gcc >/dev/null; then
        echo "scripts/release.sh: no musl-gcc: apt-get install musl-tools" >&2
        exit 69
    fi
    # Absolute paths would make each machine's binary another one.
    export RUSTFLAGS="--remap-path-prefix=$PWD=. --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=cargo -C target-feature=+crt-static"
    export CFLAGS="-ffile-prefix-map=$PWD=. -ffile-prefix-map=${CARGO_HOME:-$HOME/.cargo}=cargo"
    cargo build --locked --profile "$profile" --target "$target" --bin fleetdrain
    built=${CARGO_TARGET_DIR:-target}/$target/$([ "$profile" = dev ] && echo debug || echo "$profile")/fleetdrain
}
[ -n "$built" ] || build

linked=$(readelf -d "$built" | grep NEEDED || true)
[ -z "$linked" ] || required 70 "$built is not static:
$linked"
[ "$("$built" --version)" = "fleetdrain $version" ] || usage "$built is not of version $version"

name=fleetdrain-$version-$target
rm -rf "$out"
mkdir -p "$out/$name"
cp "$built" "$out/$name/fleetdrain"
cp README.md CHANGELOG.md LICENSE-APACHE LICENSE-MIT "$out/$name/"
cp -r deploy dashboards "$out/$name/"
tar -C "$out" --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" -cf - "$name" | gzip -n9 >"$out/$name.tar.gz"
rm -r "${out:?}/$name"
scripts/sbom.py "$target" >"$out/$name.cdx.json"
(cd "$out" && sha256sum -- * >SHA256SUMS && sha256sum -c --quiet SHA256SUMS)
ls -l "$out"
