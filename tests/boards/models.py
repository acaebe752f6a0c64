"""Reads each board given into Grafana's own models of its JSON and writes it again: a key that they do not know is gone by then, a value
that they do not take is an error. Prints what is not the same."""

import json
import re
import sys

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

# Of an export and its import, and of the Prometheus plugin, which the models leave to themselves.
BESIDE = re.compile(r"\.(__inputs|__requires|id|annotations\.list\[\]\.(textFormat|titleFormat)|templating\.list\[\]\.definition)")


def differences(ours, theirs, place=""):
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key, value in ours.items():
            here = f"{place}.{key}"
            if key in theirs:
                yield from differences(value, theirs[key], here)
            elif not BESIDE.fullmatch(here):
                yield f"{here}: not known"
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for one, other in zip(ours, theirs):
            yield from differences(one, other, f"{place}[]")
    elif ours != theirs:
        yield f"{place}: {ours!r} became {theirs!r}"


found = []
for path in sys.argv[1:]:
    with open(path, encoding="utf-8") as file:
        board = json.load(file)
    again = json.loads(json.dumps(Dashboard.from_json(board), cls=JSONEncoder))
    found += [f"{path}{difference}" for difference in differences(board, again)]
print("\n".join(sorted(set(found))))
sys.exit(bool(found) or len(sys.argv) < 2)
