"""Boards, rules and data source pushed to a running Grafana, over its HTTP API.

Only what is our own is touched: the folders, data source, boards, rule group and contact point with our uids, and of
the notification policy the one route with our label; everything else stays as it is. What Grafana has already is
compared first, so that a second time changes nothing. The main path enters at `deploy`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlparse

import niquests
from grafana_client.api import GrafanaApi
from grafana_client.client import GrafanaException
from psycopg.conninfo import conninfo_to_dict

from dashboards import alerts, files, house
from dashboards.postgres import PLUGIN, UID
from park.errors import InputError, OperationError
from park.model import Park

NOT_FOUND = 404
INTERVAL_S = int(alerts.INTERVAL.removesuffix("s"))


@dataclass(frozen=True)
class Grafana:
    """Where to, and as whom.

    Attributes
    ----------
    url
        ``https://grafana.plant`` or with a path.
    token
        Of a service account that may edit boards, alerting and, with `reader_dsn`, data sources.
    reader_dsn
        The database as Grafana reaches it, with the reader's login; None: the data source is there and stays as it is.
    webhook
        Where alerts go; None: contact point and policy stay as they are.
    force
        Write also what looks the same: passwords cannot be compared.
    runbooks
        Address of the runbook pages.
    """

    url: str
    token: str
    reader_dsn: str | None = None
    webhook: str | None = None
    force: bool = False
    runbooks: str = alerts.RUNBOOKS


@dataclass
class Report:
    """What became of each thing: created, changed or unchanged."""

    lines: list[tuple[str, str]] = field(default_factory=list)

    def say(self, what: str, done: str) -> None:
        """Note one thing."""
        self.lines.append((what, done))

    @property
    def changes(self) -> int:
        """How many things were created or changed."""
        return sum(done != "unchanged" for _, done in self.lines)


def deploy(park: Park, grafana: Grafana) -> Report:
    """Push everything, and say what changed.

    Parameters
    ----------
    park
        Its name, time zone and currency go into the boards.
    grafana
        Where to.

    Raises
    ------
    InputError
        If the URL or the reader's DSN is malformed, or there is no data source and no DSN for one.
    OperationError
        If Grafana cannot be reached, or refuses.
    """
    place = urlparse(grafana.url)
    if place.scheme not in ("http", "https") or not place.hostname:
        raise InputError(f"url: must be like https://grafana.plant, got {grafana.url!r}")
    try:
        return _Push(GrafanaApi.from_url(grafana.url, grafana.token), grafana).all(park)
    except GrafanaException as error:
        raise OperationError(f"Grafana at {place.hostname} refused: {error.message}") from error
    except niquests.exceptions.RequestException as error:
        raise OperationError(f"cannot reach Grafana at {place.hostname}: {error}") from error


class _Push:
    """One deployment."""

    def __init__(self, api: Any, grafana: Grafana) -> None:  # the client has no types
        self._api, self._grafana, self._report = api, grafana, Report()

    def all(self, park: Park) -> Report:
        self._folder(house.FOLDER, house.FOLDER_UID)
        self._folder(alerts.FOLDER, alerts.FOLDER_UID)
        self._data_source()
        for model in files.boards(files.site_of(park)).values():
            self._board(model)
        if self._grafana.webhook:
            self._contact_point(self._grafana.webhook)
            self._policy()
        self._rules()
        return self._report

    def _folder(self, title: str, uid: str) -> None:
        there = _found(lambda: self._api.folder.get_folder(uid))
        if there is None:
            self._api.folder.create_folder(title, uid)
        self._report.say(f"folder {title}", "created" if there is None else "unchanged")

    def _data_source(self) -> None:
        there = _found(lambda: self._api.datasource.get_datasource_by_uid(UID))
        dsn = self._grafana.reader_dsn
        if dsn is None:
            if there is None:
                raise InputError(f"reader-dsn: Grafana has no data source {UID} yet, so it must be given")
            self._report.say("data source", "unchanged")
            return
        wanted = _data_source(dsn)
        secret = {"secureJsonData": {"password": conninfo_to_dict(dsn).get("password") or ""}}
        self._put(
            "data source",
            there,
            wanted,
            lambda: self._api.datasource.create_datasource({**wanted, **secret}),
            lambda: self._api.datasource.update_datasource_by_uid(UID, {**wanted, **secret}),
        )

    def _board(self, model: dict[str, Any]) -> None:
        there = _found(lambda: self._api.dashboard.get_dashboard(model["uid"]))
        kept = {k: v for k, v in (there or {}).get("dashboard", {}).items() if k not in ("id", "version")}
        save = {
            "dashboard": model,
            "folderUid": house.FOLDER_UID,
            "overwrite": True,
            "message": "symbiosis dashboards deploy",
        }
        self._put(
            f"board {model['title']}",
            there,
            model,
            lambda: self._api.dashboard.update_dashboard(save),
            same=holds(kept, model) and (there or {}).get("meta", {}).get("folderUid") == house.FOLDER_UID,
        )

    def _contact_point(self, url: str) -> None:
        wanted = {"name": alerts.CONTACT, **alerts.contact_point(url)}
        there = next(
            (p for p in self._api.alertingprovisioning.get_contactpoints() if p.get("uid") == alerts.CONTACT_UID), None
        )
        self._put(
            "contact point",
            there,
            wanted,
            lambda: self._api.alertingprovisioning.create_contactpoint(wanted),
            lambda: self._api.alertingprovisioning.update_contactpoint(alerts.CONTACT_UID, wanted),
        )

    def _policy(self) -> None:
        """Put our route among the routes there are, and leave those alone."""
        tree = self._api.alertingprovisioning.get_notification_policy_tree()
        routes: list[dict[str, Any]] = tree.get("routes") or []
        ours = [route for route in routes if _is_ours(route)]
        kept = [route for route in routes if not _is_ours(route)]
        wanted = alerts.route()
        self._put(
            "route of the notification policy",
            ours[0] if len(ours) == 1 else None,
            wanted,
            lambda: self._api.alertingprovisioning.set_notification_policy_tree({**tree, "routes": [wanted, *kept]}),
        )

    def _rules(self) -> None:
        """Replace our rule group as a whole; rules that are no more go with that."""
        rules = [
            {**rule, "folderUID": alerts.FOLDER_UID, "ruleGroup": alerts.GROUP, "orgID": 1}
            for rule in alerts.rules(self._grafana.runbooks)
        ]
        wanted = {"title": alerts.GROUP, "folderUid": alerts.FOLDER_UID, "interval": INTERVAL_S, "rules": rules}
        provisioning = self._api.alertingprovisioning
        there = _found(lambda: provisioning.get_rule_group(alerts.FOLDER_UID, alerts.GROUP))
        self._put(
            f"{len(rules)} alert rules",
            there,
            wanted,
            lambda: provisioning.update_rule_group(alerts.FOLDER_UID, alerts.GROUP, wanted),
        )

    def _put(
        self,
        what: str,
        there: object,
        wanted: object,
        create: Callable[[], object],
        change: Callable[[], object] | None = None,
        *,
        same: bool | None = None,
    ) -> None:
        """Create, change or leave one thing, and note which."""
        if there is None:
            create()
            self._report.say(what, "created")
        elif not self._grafana.force and (holds(there, wanted) if same is None else same):
            self._report.say(what, "unchanged")
        else:
            (change or create)()
            self._report.say(what, "changed")


def holds(there: object, wanted: object) -> bool:
    """Whether what Grafana has says all that is wanted; it adds defaults of its own to objects, none to lists.

    Examples
    --------
    >>> holds({"a": 1, "id": 7}, {"a": 1})
    True
    >>> holds({"a": [1, 2]}, {"a": [1]})
    False
    """
    if isinstance(wanted, Mapping):
        return isinstance(there, Mapping) and all(holds(there.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, Sequence) and not isinstance(wanted, str):
        return (
            isinstance(there, Sequence)
            and len(there) == len(wanted)
            and all(holds(mine, theirs) for mine, theirs in zip(there, wanted, strict=True))
        )
    return there == wanted


def _is_ours(route: Mapping[str, Any]) -> bool:
    return [alerts.LABEL[0], "=", alerts.LABEL[1]] in (route.get("object_matchers") or [])


def _found(get: Callable[[], Any]) -> Any:
    """Return what Grafana has; None where it has none."""
    try:
        return get()
    except GrafanaException as error:
        if error.status_code == NOT_FOUND:
            return None
        raise


def _data_source(dsn: str) -> dict[str, Any]:
    """Return the data source for a DSN, without its password."""
    settings = conninfo_to_dict(dsn)
    missing = [name for name in ("host", "user", "dbname") if not settings.get(name)]
    if missing:
        raise InputError(f"reader-dsn: needs {', '.join(missing)}, as Grafana reaches the database from where it runs")
    return {
        "name": "Symbiosis",
        "uid": UID,
        "type": PLUGIN,
        "access": "proxy",
        "url": f"{settings['host']}:{settings.get('port') or 5432}",
        "user": settings["user"],
        "jsonData": {
            **files.data_source()["jsonData"],
            "database": settings["dbname"],
            "sslmode": settings.get("sslmode") or "require",
        },
    }
