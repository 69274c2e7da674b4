SELECT r.key, r.pressure, "press-shop.raw".seq FROM "press-shop.raw" r, "press-shop.raw" WHERE r.seq = "press-shop.raw".seq ORDER BY 1
