select KEY, Count(*) from SENSORS group by Key having count(*) > 1 order by key
