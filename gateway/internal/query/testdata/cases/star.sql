SELECT * FROM sensors WHERE key = 'gate'
