SELECT strftime('%H:%M', ts, 'unixepoch') AS unit, count(*) FROM sensors WHERE key='gate' GROUP BY unit
