SELECT shard, seq, ts, arrived, at, key, source, type, attrs, bytes, typeof(data) FROM sensors ORDER BY arrived
