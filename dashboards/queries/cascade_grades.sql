SELECT grade, sum(heat_mw) AS "heat" FROM heat_grade_now GROUP BY grade ORDER BY grade
