SELECT now() AS time, extract(epoch FROM now() - max(window_end))::double precision AS seconds_since_the_newest_window
  FROM window_log
 WHERE window_start = (SELECT max(window_start) FROM window_log)
