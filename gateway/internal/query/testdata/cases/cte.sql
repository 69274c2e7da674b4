WITH hot AS (SELECT key, temp FROM sensors WHERE temp > 30) SELECT count(*), max(temp) FROM hot
