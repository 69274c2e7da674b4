SELECT motor.rpm, pressure FROM sensors, "press-shop.raw" WHERE motor.rpm IS NOT NULL ORDER BY pressure
