SELECT /* a ; DROP */ count(*) -- the end;
FROM sensors; ;
