"""The queries of panels, variables, annotations and rules, one file each, named `<board>_<panel>.sql`.

They read views alone. `step_s = series_step(from, until)` picks how coarse the data are (park/store/migrations/0004).
"""
