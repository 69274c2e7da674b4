SELECT tmep FROM sensors WHERE key = 'gate'
