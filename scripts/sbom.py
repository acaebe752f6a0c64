#!/usr/bin/env python3
"""Prints the SBOM of the binary: what Cargo.lock and the default features put into it, as CycloneDX 1.5.

Usage: scripts/sbom.py TARGET

Build scripts' and macros' crates are in it, marked `excluded`: they make the binary and are not part of it. The serial number
follows from the content, so that the same sources give the same document.
"""

import json
import re
import subprocess
import sys
import uuid
from datetime import datetime, timezone
from os import environ

TARGET = sys.argv[1]


def metadata():
    command = ["cargo", "metadata", "--locked", "--format-version=1", f"--filter-platform={TARGET}"]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def checksums():
    """The SHA-256 of each package, from the lock file."""
    found = {}
    for package in open("Cargo.lock", encoding="utf-8").read().split("[[package]]")[1:]:
        field = {name: re.search(rf'^{name} = "(.*)"$', package, re.M) for name in ("name", "version", "checksum")}
        if field["checksum"]:
            found[field["name"][1], field["version"][1]] = field["checksum"][1]
    return found


def main():
    data = metadata()
    packages = {package["id"]: package for package in data["packages"]}
    nodes = {node["id"]: node for node in data["resolve"]["nodes"]}
    root = next(id for id, package in packages.items() if package["name"] == "fleetdrain" and not package["source"])

    def needs(id, kinds):
        for dep in nodes[id]["deps"]:
            if any(kind["kind"] in kinds for kind in dep["dep_kinds"]):
                yield dep["pkg"]

    def reach(kinds):
        seen, todo = set(), [root]
        while todo:
            id = todo.pop()
            if id not in seen:
                seen.add(id)
                todo.extend(needs(id, kinds))
        return seen

    def is_macro(id):
        return any("proc-macro" in target["kind"] for target in packages[id]["targets"])

    everything = reach([None, "build"])
    # What only macros and build scripts need is not in the binary.
    shipped, todo = set(), [root]
    while todo:
        id = todo.pop()
        if id not in shipped and not is_macro(id):
            shipped.add(id)
            todo.extend(needs(id, [None]))
    sums = checksums()

    def ref(id):
        return f"pkg:cargo/{packages[id]['name']}@{packages[id]['version']}"

    def component(id):
        package = packages[id]
        told = {
            "type": "application" if id == root else "library",
            "bom-ref": ref(id),
            "name": package["name"],
            "version": package["version"],
            "purl": ref(id),
            "scope": "required" if id in shipped else "excluded",
        }
        if package["license"]:
            told["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
        if checksum := sums.get((package["name"], package["version"])):
            told["hashes"] = [{"alg": "SHA-256", "content": checksum}]
        return told

    order = sorted(everything - {root}, key=ref)
    epoch = int(environ.get("SOURCE_DATE_EPOCH", "0"))
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(epoch, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": component(root),
            "properties": [{"name": "target", "value": TARGET}],
        },
        "components": [component(id) for id in order],
        "dependencies": [
            {"ref": ref(id), "dependsOn": sorted({ref(dep) for dep in needs(id, [None, "build"])})}
            for id in sorted(everything, key=ref)
        ],
    }
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(document, sort_keys=True))
    print(json.dumps({"serialNumber": f"urn:uuid:{serial}", **document}, indent=1))


main()
