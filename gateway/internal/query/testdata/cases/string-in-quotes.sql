SELECT count(*) FROM sensors WHERE key = "oven"
