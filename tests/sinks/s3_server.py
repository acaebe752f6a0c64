"""An S3 server with one bucket, `logs`, that prints its address and runs until its standard input ends.

For each line of its standard input it prints how often each record is there: the numbers in the members `message` of all lines of
all objects, `NUMBER:TIMES` with blanks between."""

import collections
import json
import sys

import boto3
from moto.server import ThreadedMotoServer

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
client = boto3.client(
    "s3",
    endpoint_url=f"http://{host}:{port}",
    region_name="us-east-1",
    aws_access_key_id="id",
    aws_secret_access_key="secret",
)
client.create_bucket(Bucket="logs")
print(f"http://{host}:{port}", flush=True)
for _ in sys.stdin:
    times = collections.Counter()
    for page in client.get_paginator("list_objects_v2").paginate(Bucket="logs"):
        for item in page.get("Contents", []):
            lines = client.get_object(Bucket="logs", Key=item["Key"])["Body"].read().splitlines()
            times.update(int(json.loads(line)["message"]) for line in lines)
    print(" ".join(f"{number}:{count}" for number, count in sorted(times.items())), flush=True)
server.stop()
