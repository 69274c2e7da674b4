SELECT temp FROM sensors, "press-shop.raw"
