SELECT j.value FROM sensors, json_each(data, '$.motor.phase') AS j WHERE motor.rpm > 0
