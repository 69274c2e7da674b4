SELECT value, temp, data FROM sensors WHERE key = 'oven' ORDER BY arrived
