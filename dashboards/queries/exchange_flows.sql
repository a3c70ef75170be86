SELECT time, reconciled - reconciled_u95 AS low, reconciled + reconciled_u95 AS high, sender, receiver, reconciled
  FROM exchange_series
 WHERE exchange = ${exchange:sqlstring} AND step_s = series_step($__timeFrom(), $__timeTo()) AND $__timeFilter(time)
 ORDER BY time
