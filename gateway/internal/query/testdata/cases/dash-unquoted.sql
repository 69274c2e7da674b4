SELECT * FROM press-shop
