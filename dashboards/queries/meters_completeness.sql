WITH expected AS (
    SELECT sum(windows) AS windows FROM window_series
     WHERE step_s = greatest(series_step($__timeFrom(), $__timeTo()), 300) AND $__timeFilter(time)),
found AS (
    SELECT meter, sum(windows) AS windows FROM meter_presence
     WHERE step_s = greatest(series_step($__timeFrom(), $__timeTo()), 300) AND $__timeFilter(time) GROUP BY meter)
SELECT m.meter, m.participant, coalesce(f.windows, 0)::double precision / nullif(e.windows, 0)::double precision AS completeness
  FROM meter_now m
 CROSS JOIN expected e
  LEFT JOIN found f ON f.meter = m.meter
 ORDER BY completeness NULLS FIRST, m.position
 LIMIT 30
