SELECT max(temp) AS temp, count(*) AS n FROM sensors WHERE key LIKE '%press%' GROUP BY device ORDER BY temp DESC
