SELECT seq, motor.rpm, motor.phase, "motor.phase.1", s.motor.rpm AS again FROM sensors AS s WHERE motor.rpm > 0
