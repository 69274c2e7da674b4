SELECT key, seq FROM sensors WHERE seq >= 2 AND seq < 3 ORDER BY key
