SELECT key FROM sensors WHERE arrived BETWEEN unixepoch('2026-11-05 14:20:00') AND unixepoch('2026-11-05 14:40:00') ORDER BY arrived
