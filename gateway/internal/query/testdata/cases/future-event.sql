SELECT key, datetime(ts, 'unixepoch') AS t FROM sensors WHERE ts > now() ORDER BY ts
