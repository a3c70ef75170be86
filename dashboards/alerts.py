"""Alert rules, contact point and policy: somebody is told of every event, and told when it is over.

One rule for each kind of event. Each asks `event_alert`, which has a row for everything that deviates (`is_open` 1) or
did until an hour ago (0): so an alert clears by a value and not by missing data. Subject, participants, exchange and
severity come from the row and become labels. Texts hold no dollar sign: provisioning files would read it as a variable.
The main path enters at `rules`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dashboards.postgres import UID, Query

FOLDER, FOLDER_UID = "Symbiosis alerts", "symbiosis-alerts"
"""A folder apart from the boards': rules are provisioned first and make their folder by its title, with a uid of their
own; the boards' provider, which asks for its uid, would then find its title taken (grafana/grafana#125079, #87889)."""
GROUP = "symbiosis"
INTERVAL = "20s"
CONTACT, CONTACT_UID = "symbiosis-operators", "symbiosis-operators"
LABEL = ("app", "symbiosis")
RUNBOOKS = "docs/runbooks"
"""Where the pages lie in the repository; a site names the address that its people reach them at."""
EXPRESSION = "__expr__"
"""Grafana's own data source of expressions."""


@dataclass(frozen=True)
class Kind:
    """One kind of event: what it is called, which board has its evidence, and how long it must last to be told."""

    name: str
    title: str
    board: str
    patience: str = "0s"


KINDS = (
    Kind("quality_deviation", "Quality outside the agreement", "exchange"),
    Kind("volume_mismatch", "The two ends of an exchange differ", "exchange"),
    Kind("schedule_mismatch", "Delivery outside the agreed window, or short of it", "exchange"),
    Kind("delay_mismatch", "Sender and receiver out of step", "exchange"),
    Kind("meter_bias", "Meter is biased", "meters"),
    Kind("meter_stuck", "Meter is stuck", "meters"),
    Kind("meter_silent", "Meter is silent", "meters", "1m"),
    Kind("meter_range", "Meter outside its range", "meters"),
    Kind("clock_offset", "Clock of a meter is off", "meters"),
    Kind("leak", "Node loses mass or energy", "balances"),
)
"""The contract's kinds. Events have passed their own delays already; silence is waited for a little longer, as a source
that starts again makes many at once."""

NO_RESULTS = Kind("no_results", "No new results", "meters", "1m")
NO_RESULTS_AFTER_S = 180


def rule_uid(kind: Kind) -> str:
    """Return the stable uid of a rule."""
    return f"symbiosis-{kind.name.replace('_', '-')}"


def rules(runbooks: str = RUNBOOKS) -> list[dict[str, object]]:
    """Return all rules as Grafana's provisioning and its HTTP API write them; `runbooks` is where their pages are."""
    of_events = [_rule(kind, _event_query(kind), 0.5, runbooks) for kind in KINDS]
    return [*of_events, _rule(NO_RESULTS, Query("alert_data", "time_series").text, NO_RESULTS_AFTER_S, runbooks)]


def _event_query(kind: Kind) -> str:
    return Query("alert_events", "time_series").text.replace("{kind}", kind.name)


def _rule(kind: Kind, query: str, above: float, runbooks: str) -> dict[str, object]:
    is_event = kind is not NO_RESULTS
    labels = {LABEL[0]: LABEL[1], "kind": kind.name, **({} if is_event else {"severity": "critical"})}
    return {
        "uid": rule_uid(kind),
        "title": kind.title,
        "condition": "C",
        "for": kind.patience,
        "data": [_asked(query), _reduced(), _compared(above)],
        "noDataState": "OK" if is_event else "Alerting",
        "execErrState": "Error",
        "labels": labels,
        "annotations": {**_texts(kind, is_event=is_event), "runbook_url": f"{runbooks}/{kind.name}.md"},
    }


def _texts(kind: Kind, *, is_event: bool) -> dict[str, str]:
    what = (
        "{{ .Labels.subject }} {{ .Labels.aspect }}"
        if is_event
        else "processing has written no window for some minutes"
    )
    return {
        "summary": f"{kind.title}: {what}",
        "description": "{{ .Labels.participant }} {{ .Labels.other_participant }}, exchange {{ .Labels.exchange }}."
        if is_event
        else "The newest window is {{ .Values.B.Value }} s old.",
        "__dashboardUid__": f"symbiosis-{kind.board}",
        "__panelId__": "1",
    }


def _asked(query: str) -> dict[str, object]:
    return {
        "refId": "A",
        "datasourceUid": UID,
        "relativeTimeRange": {"from": 600, "to": 0},
        "model": {
            "refId": "A",
            "datasource": {"type": "postgres", "uid": UID},
            "editorMode": "code",
            "format": "time_series",
            "rawQuery": True,
            "rawSql": query,
            "intervalMs": 1000,
            "maxDataPoints": 43200,
        },
    }


def _reduced() -> dict[str, object]:
    return _expression("B", {"type": "reduce", "expression": "A", "reducer": "last", "settings": {"mode": "dropNN"}})


def _compared(above: float) -> dict[str, object]:
    return _expression(
        "C", {"type": "threshold", "expression": "B", "conditions": [{"evaluator": {"type": "gt", "params": [above]}}]}
    )


def _expression(ref: str, model: dict[str, object]) -> dict[str, object]:
    return {
        "refId": ref,
        "datasourceUid": EXPRESSION,
        "relativeTimeRange": {"from": 0, "to": 0},
        "model": {"refId": ref, "datasource": {"type": EXPRESSION, "uid": EXPRESSION}, **model},
    }


def contact_point(url: str) -> dict[str, object]:
    """Return the contact point: whoever takes Grafana's web hook at `url`."""
    return {
        "uid": CONTACT_UID,
        "type": "webhook",
        "settings": {"url": url, "httpMethod": "POST"},
        "disableResolveMessage": False,
    }


def route() -> dict[str, object]:
    """Return the part of the notification policy that is ours: our label goes to our contact point, by severity."""
    return {
        "receiver": CONTACT,
        "object_matchers": [[LABEL[0], "=", LABEL[1]]],
        "group_by": ["kind", "exchange"],
        "group_wait": "30s",
        "group_interval": "5m",
        "repeat_interval": "12h",
        "routes": [
            {
                "receiver": CONTACT,
                "object_matchers": [["severity", "=~", "high|critical"]],
                "group_by": ["kind", "exchange"],
                "group_wait": "10s",
                "repeat_interval": "4h",
            }
        ],
    }


def deleted(earlier: Iterable[str]) -> list[str]:
    """Return which of the uids that an earlier version shipped are no rules any more."""
    return sorted(set(earlier) - {str(rule["uid"]) for rule in rules()})
