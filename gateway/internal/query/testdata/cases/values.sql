VALUES (1, 'a', NULL, 1.5, x'00ff')
