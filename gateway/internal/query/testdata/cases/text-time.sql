SELECT count(*) FROM sensors WHERE ts > '2026-11-05'
