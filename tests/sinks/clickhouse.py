"""Inserts what stands on standard input as the sink does, into a table as docs/sinks.md has it, and prints the table's rows as JSON, a row a line."""

import pathlib
import re
import sys

from chdb import session

page = pathlib.Path(__file__).parents[2].joinpath("docs/sinks.md").read_text(encoding="utf-8")
table = re.search(r"```sql\n(CREATE TABLE .*?)```", page, re.DOTALL).group(1)
clickhouse = session.Session()
clickhouse.query("CREATE DATABASE logs")
clickhouse.query(table)
settings = "date_time_input_format='best_effort', input_format_skip_unknown_fields=1"
clickhouse.query(f"INSERT INTO logs.lines SETTINGS {settings} FORMAT JSONEachRow\n{sys.stdin.read()}")
print(clickhouse.query("SELECT * FROM logs.lines ORDER BY id", "JSONEachRow"), end="")
