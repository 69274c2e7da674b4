"""A sample: reads a Kinesis stream that a gateway fills, takes KPL aggregates
apart and prints each record once. AWS_ENDPOINT_URL points it elsewhere.

    python3 consumer.py STREAM
"""
import json, os, sys
from botocore.session import get_session


def fields(msg):  # of a protobuf message: number and value
    numbers, at = [], 0
    while at < len(msg):
        end = next(i for i in range(at, len(msg)) if msg[i] < 128) + 1
        numbers.append(sum((b & 127) << 7 * i for i, b in enumerate(msg[at:end])))
        at = end
        if len(numbers) == 2:
            (tag, value), numbers = numbers, []
            if tag & 7 == 2:  # that many bytes
                value, at = msg[at:at + value], at + value
            yield tag >> 3, value


def records(key, data):  # an aggregate is {1 keys, 3 records {1 key's index, 3 data}}
    if data[:4] != b"\xf3\x89\x9a\xc2":
        return [(key, data)]
    parts = list(fields(data[4:-16]))  # behind it is an MD5
    keys = [value.decode() for number, value in parts if number == 1]
    inner = [dict(fields(value)) for number, value in parts if number == 3]
    return [(keys[r[1]], r.get(3, b"")) for r in inner]


seen = {}  # the highest number of each lane, GATEWAY/EPOCH/SHARD; keep it with your results
kinesis, stream = get_session().create_client("kinesis", endpoint_url=os.environ.get("AWS_ENDPOINT_URL")), sys.argv[1]
page = kinesis.list_shards(StreamName=stream)
shards = page["Shards"]  # parents come before their children
while "NextToken" in page:
    page = kinesis.list_shards(NextToken=page["NextToken"])
    shards += page["Shards"]
for shard in shards:
    it = kinesis.get_shard_iterator(StreamName=stream, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON")["ShardIterator"]
    while it:
        out = kinesis.get_records(ShardIterator=it)
        for key, data in (part for r in out["Records"] for part in records(r["PartitionKey"], r["Data"])):
            lane, number = json.loads(data)["id"].rsplit("/", 1)
            if int(number) > seen.get(lane, 0):
                seen[lane] = int(number)
                print(key, data.decode(), sep="\t")
        if not out["Records"] and not out["MillisBehindLatest"]:
            break  # the sample ends where the stream does; a consumer goes on
        it = out.get("NextShardIterator")
