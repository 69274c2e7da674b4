SELECT x.y, press.raw.x.y AS z FROM press.raw
