"""A stand-in for Grafana's HTTP API: keeps what it is given, adds defaults as Grafana does, and records the calls.

It is no Grafana: it knows the paths that `symbiosis dashboards deploy` uses, and refuses a wrong token.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "token-of-tests"
PLACES = {
    "/api/folders": ("folders", "uid"),
    "/api/datasources": ("datasources", "uid"),
    "/api/v1/provisioning/contact-points": ("contact-points", "uid"),
}


class StandIn:
    """What it holds, and the calls that would change something."""

    def __init__(self) -> None:
        self.held: dict[str, Any] = {
            "/api/v1/provisioning/policies": {
                "receiver": "theirs",
                "routes": [{"receiver": "theirs", "object_matchers": [["team", "=", "a"]]}],
            }
        }
        self.contact_points: list[dict[str, Any]] = [
            {"uid": "theirs", "name": "theirs", "type": "email", "settings": {}}
        ]
        self.writes: list[tuple[str, str]] = []
        self.url = ""

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        """Return status and body."""
        if method == "GET":
            if path == "/api/v1/provisioning/contact-points":
                return 200, self.contact_points
            path = path.replace("/api/datasources/uid/", "/api/datasources/")
            return (200, self.held[path]) if path in self.held else (404, {"message": "not found"})
        self.writes.append((method, path))
        if path == "/api/dashboards/db":
            uid = body["dashboard"]["uid"]
            self.held[f"/api/dashboards/uid/{uid}"] = {
                "dashboard": {**body["dashboard"], "id": 7, "version": 3},
                "meta": {"folderUid": body["folderUid"]},
            }
        elif path == "/api/v1/provisioning/contact-points":
            self.contact_points.append({**body, "provenance": "api"})
        elif path.startswith("/api/v1/provisioning/contact-points/"):
            self.contact_points = [p for p in self.contact_points if p["uid"] != body["uid"]] + [body]
        elif path in PLACES:
            shown = {key: value for key, value in body.items() if key != "secureJsonData"}
            self.held[f"{path}/{body['uid']}"] = {**shown, "id": 1, "readOnly": False}
        else:
            path = path.replace("/api/datasources/uid/", "/api/datasources/")
            self.held[path] = {**body, "provenance": "api"}
        return 200, {}


@contextmanager
def running() -> Iterator[StandIn]:
    """Run a stand-in on a free port."""
    grafana = StandIn()

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"null")
            known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
            status, answer = (
                grafana.answer(self.command, self.path, body) if known else (401, {"message": "Invalid API key"})
            )
            text = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_PUT = do_DELETE = _serve

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    grafana.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield grafana
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
