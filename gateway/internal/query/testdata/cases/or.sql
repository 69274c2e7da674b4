SELECT key FROM sensors WHERE seq = 1 OR key = 'gate' ORDER BY key
