"""What people look at: Grafana boards and alert rules, built from code on the store's views.

    queries/*.sql ──► one function a panel ──► one module a board ──► files.py ──► deploy/grafana/ ──► Grafana
                                               alerts.py ────────────┘        └──► deploy.py ─────► a running Grafana

House defaults (colours, sizes, links) are in `house`, the SQL in `queries/`. Not here: what the views say
(park/store/migrations/0004_board_views.sql). The main path enters at `files.build`.
"""
