SELECT device, avg(temp) FROM sensors WHERE ts > now()-3600 GROUP BY device
