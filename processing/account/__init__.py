"""What exchanges add up to over longer times; `kpi` has the year table."""
