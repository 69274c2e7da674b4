"""A sample: reads a Kinesis stream that a gateway fills, takes KPL aggregates
apart and prints each record once. AWS_ENDPOINT_URL points it elsewhere.

    python3 consumer.py STREAM
"""
import os
import sys
from botocore.session import get_session


def varint(msg, at):
    value, shift = 0, 0
    while True:
        byte = msg[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at


def fields(msg):
    at = 0
    while at < len(msg):
        tag, at = varint(msg, at)
        value, at = varint(msg, at)
        if tag & 7 == 2:  # that many bytes
            value, at = msg[at:at + value], at + value
        yield tag >> 3, value


def records(key, data):  # {1 keys, 3 records {1 key's index, 3 data}}
    if data[:4] != b"\xf3\x89\x9a\xc2":
        yield key, data
        return
    keys = []
    for number, value in fields(data[4:-16]):  # behind it is an MD5
        if number == 1:
            keys.append(value.decode())
        elif number == 3:
            inner = dict(fields(value))
            yield keys[inner[1]], inner.get(3, b"")


seen = {}  # the highest number of each lane; keep it with your results


def first(data):  # {"id":"GATEWAY/EPOCH/SHARD/SEQUENCE",...
    lane, number = data.split(b'"', 4)[3].rsplit(b"/", 1)
    if int(number) <= seen.get(lane, 0):
        return False
    seen[lane] = int(number)
    return True


kinesis = get_session().create_client("kinesis", endpoint_url=os.environ.get("AWS_ENDPOINT_URL"))
stream = sys.argv[1]
for shard in kinesis.list_shards(StreamName=stream)["Shards"]:  # parents come before their children
    it = kinesis.get_shard_iterator(StreamName=stream, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON")["ShardIterator"]
    while it:
        out = kinesis.get_records(ShardIterator=it)
        for r in out["Records"]:
            for key, data in records(r["PartitionKey"], r["Data"]):
                if first(data):
                    print(key, data.decode(), sep="\t")
        if not out["Records"] and not out["MillisBehindLatest"]:
            break  # the sample ends where the stream does; a consumer goes on
        it = out.get("NextShardIterator")
