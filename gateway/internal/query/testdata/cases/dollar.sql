SELECT ts, "$.ts", temp FROM sensors WHERE key='gate'
