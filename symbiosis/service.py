"""Runs one service (simulate, collect, process) in a process of its own, by hand or under the supervisor.

By hand it logs lines on stderr; Ctrl-C or SIGTERM lets it finish its work, a second one ends it at once.

Supervised (`--supervised`), it says where it is in JSON lines on stdout and takes orders on stdin:

    supervisor                      service
                                    <- {"state": "loaded"}            imports are done
    start                           -> reads run.json and begins
                                    <- {"state": "serving", ...}      what the service says of itself
    armed, stop, leave              -> as the service knows them
    SIGHUP                          -> looks at the park's files at once
                                    <- {"state": "note", "text": ...}     for people; the service's state stays
    end of stdin                    -> the supervisor is dead: ends at once

The services themselves are in `simulators.serve`, `collector.agent` and `processing.cycle`; `symbiosis.services`
hands them what they need.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping

from symbiosis.said import in_words

Say = Callable[[str, Mapping[str, object]], None]
INTERRUPTED = 130

_PR_SET_PDEATHSIG = 1       # linux/prctl.h
_QUIET = ("asyncua",)       # libraries that tell each of their retries; the services tell changes of state

log = logging.getLogger(__name__)


class Orders:
    """What the service was told to do. An order stays given; `on` after it acts at once."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._given: set[str] = set()
        self._actions: dict[str, list[Callable[[], object]]] = defaultdict(list)

    def on(self, order: str, action: Callable[[], object]) -> None:
        """Run `action`, which must be quick and safe in any thread, when `order` is given."""
        with self._lock:
            if order in self._given:
                action()
            else:
                self._actions[order].append(action)

    def give(self, order: str) -> None:
        """Give an order; the second time changes nothing."""
        with self._lock:
            if order not in self._given:
                self._given.add(order)
                for action in self._actions[order]:
                    action()

    def repeat(self, order: str) -> None:
        """Give an order that may come again and again: each time its actions are run."""
        with self._lock:
            for action in self._actions[order]:
                action()

    def forget(self) -> None:
        """Run no action any more: the service has ended."""
        with self._lock:
            self._actions.clear()

    def given(self, order: str) -> bool:
        """Whether `order` was given."""
        with self._lock:
            return order in self._given

    def event(self, *orders: str) -> threading.Event:
        """Return an event that is set when one of the orders is given."""
        happened = threading.Event()
        for order in orders:
            self.on(order, happened.set)
        return happened


Body = Callable[[Orders, Say], None]


def run_service(name: str, load: Callable[[], Body], *, supervised: bool) -> int:
    """Run a service to its end.

    Parameters
    ----------
    name
        Its name in log lines.
    load
        Imports what the service needs and returns its body; the body blocks until the order `stop` is given and the
        service has finished, and calls `say` when its state changes.
    supervised
        Whether a supervisor holds stdin and reads stdout.

    Returns
    -------
    int
        The exit code: 0, or 130 if Ctrl-C ended it.

    Raises
    ------
    SymbiosisError
        What the service raises.
    """
    configure_logging(name)
    orders = Orders()
    interrupted = _take_signals(orders, supervised=supervised)
    if supervised:
        die_with_parent()
        threading.Thread(target=_take_orders, args=(orders,), name="orders", daemon=True).start()
    say = _say_json if supervised else _Teller()
    body = load()
    if supervised:
        say("loaded", {})
        orders.event("start", "stop").wait()
    if orders.given("start") or not orders.given("stop"):       # told to stop while it loaded: what is there is done
        body(orders, say)
    orders.forget()
    return INTERRUPTED if interrupted.is_set() else 0


def die_with_parent() -> None:
    """Ask the kernel to kill this process when the supervisor ends, should the end of stdin not reach it."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def configure_logging(name: str) -> None:
    """Log changes of state on stderr, one line each, in UTC."""
    handler = logging.StreamHandler(sys.stderr)
    formatter = logging.Formatter(f"%(asctime)s {name}: %(message)s", "%Y-%m-%d %H:%M:%SZ")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for library in _QUIET:
        logging.getLogger(library).setLevel(logging.CRITICAL)


def _take_signals(orders: Orders, *, supervised: bool) -> threading.Event:
    """Make signals orders; return an event that tells whether Ctrl-C was among them."""
    interrupted = threading.Event()

    def stop(number: int, _frame: object) -> None:
        if orders.given("stop"):
            os._exit(INTERRUPTED)
        if number == signal.SIGINT:
            interrupted.set()
        orders.give("stop")

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN if supervised else stop)
    if not os.isatty(sys.stdin.fileno()):       # in a terminal it says that the terminal is gone
        signal.signal(signal.SIGHUP, lambda *_: orders.repeat("reload"))
    return interrupted


def _take_orders(orders: Orders) -> None:
    """Read orders from stdin until it ends, which means that the supervisor is dead."""
    for line in sys.stdin:
        orders.give(line.strip())
    os._exit(1)


_stdout = threading.Lock()


def _say_json(state: str, detail: Mapping[str, object]) -> None:
    """Tell the supervisor; a supervisor that is gone is noticed by the end of stdin."""
    line = json.dumps({"state": state, **detail}, default=str, ensure_ascii=False)
    with _stdout:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


class _Teller:
    """Log each state that a service comes to, once; some the services log by themselves at each change."""

    def __init__(self) -> None:
        self._told = {"source", "store", "unserved", "late"}

    def __call__(self, state: str, detail: Mapping[str, object]) -> None:
        if state == "note":
            log.info("%s", detail["text"])
        elif state not in self._told:
            self._told.add(state)
            log.info("%s", in_words(state, detail))
