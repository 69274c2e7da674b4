SELECT key, temp, temp - lag(temp) OVER (PARTITION BY key ORDER BY arrived) AS step FROM sensors WHERE device LIKE 'plant%' ORDER BY arrived
