SELECT s.device, s.temp, r.pressure FROM sensors s JOIN "press-shop.raw" r ON r.key = replace(s.device, 'plant/line1/', '') WHERE r.temp = 'hot' ORDER BY s.seq, s.shard
