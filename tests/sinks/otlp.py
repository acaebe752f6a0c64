"""Reads the OTLP/JSON on standard input by OpenTelemetry's own definitions, in which an unknown field is an error, and prints of each log
record what resource and scope it has and what it says, as JSON, a record a line."""

import json
import sys

from google.protobuf import json_format
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest


def values(attributes):
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


request = json_format.Parse(sys.stdin.read(), ExportLogsServiceRequest())
for resource in request.resource_logs:
    for scope in resource.scope_logs:
        for record in scope.log_records:
            print(json.dumps({
                "resource": values(resource.resource.attributes),
                "scope": scope.scope.name,
                "nanoseconds": record.time_unix_nano,
                "severity": record.severity_number,
                "body": record.body.string_value,
                "attributes": values(record.attributes),
            }))
