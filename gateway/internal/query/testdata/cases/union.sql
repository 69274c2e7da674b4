SELECT temp FROM sensors WHERE key='gate' UNION ALL SELECT pressure FROM "press-shop.raw" ORDER BY 1
