"""One OPC UA server: its sessions, each kept connected and subscribed, with what is between two connections.

    OpcuaSource          the server: its tags dealt out to sessions, its state as a whole
      Share              the tags of one session, from connection to connection
        session          connecting, taking up what a lost connection left
        handover         what is left to the next collector, should this one be killed
        subscribing      what the server was asked to watch
        publishing       what that brings: the way of a value is told there
        history          holes filled from what the server has kept
        nameplates       units and ranges of the server held against park.yaml

The register of tags (`opcua.tags`) is the truth; each attempt has a client of its own, and one thing at a time knocks
at a server, with one back-off.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from collector.backoff import Backoff
from collector.batches import NOT_RUNNING, Batches, Chunk, Interruption
from collector.holes import Hole
from collector.opcua.handover import Handover, Keeping, Owner
from collector.opcua.namespaces import Namespaces
from collector.opcua.publishing import Publisher
from collector.opcua.security import Settings, settings_of
from collector.opcua.session import quiet_library
from collector.opcua.share import Share
from collector.opcua.tags import Tag
from collector.opcua.values import Values
from collector.register import opcua_source
from collector.rejections import Rejections
from collector.status import SourceStatus, State
from collector.times import micros_of_seconds
from park.clock import RunClock
from park.servers import OpcuaServer

__all__ = ["Endpoint", "OpcuaSource", "quiet_library"]

RATE_A_SESSION = 5000.0     # readings/s: half of what one asyncua server can publish in one session
_MOST_HANDLES = 1 << 30     # where handles begin is drawn: two clients of one server shall not have the same


@dataclass(frozen=True)
class Endpoint:
    """A server: as the park configures it, where it is reached in this run, and its settings."""

    configured: str
    url: str
    settings: Settings = field(default_factory=lambda: Settings(OpcuaServer(id="", endpoint="")))

    @classmethod
    def of(cls, server: OpcuaServer, url: str) -> Endpoint:
        """Return the endpoint of a server, its secrets read.

        Raises
        ------
        InputError
            If a secret, certificate or key cannot be read.
        """
        return cls(server.endpoint, url, settings_of(server))

    @property
    def source(self) -> str:
        """Name of the source."""
        return opcua_source(self.configured)


class OpcuaSource:
    """Collects the tags of one server until it is cancelled.

    Parameters
    ----------
    endpoint
        The server.
    tags
        Its tags.
    batches
        Where readings go.
    status, rejections
        Where it says how it fares.
    clock
        The run's clock.
    keeping
        Where it notes what is at the server; None: nothing is left to a next collector.
    """

    def __init__(
        self, endpoint: Endpoint, tags: Sequence[Tag], batches: Batches, status: SourceStatus, rejections: Rejections,
        clock: RunClock, keeping: Keeping | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.armed = asyncio.Event()            # every tag was asked for and answered, once
        self.backoff = Backoff()
        self.knocking = asyncio.Lock()          # one session at a time tries to connect
        self.values = Values(endpoint.source, rejections, secrets.randbelow(_MOST_HANDLES))
        self.batches = batches
        self._continuing: set[Share] = set()    # sessions that may go on where an earlier collector's stopped
        self._continues = False                 # nothing was interrupted since an earlier collector
        self._untold = 0                        # interruptions that are still in the queue
        self.clock = clock
        self._status = status
        self.publisher = Publisher(endpoint.source, self.values, batches, rejections, clock, self.interrupted,
                                   status.hear)
        self._keeping = keeping or Keeping()
        self.namespaces = Namespaces(self._keeping.folder, endpoint.source)
        owners = (Owner(endpoint.source, endpoint.url, micros_of_seconds(clock.start), number)
                  for number in range(_sessions(endpoint.settings.server, tags)))
        self._shares = [Share(self, Handover(self._keeping.folder, owner)) for owner in owners]
        self._inherit()
        self._deal(tags)

    async def run(self) -> None:
        """Connect and collect, again and again.

        Raises
        ------
        SourceError
            If the server, at its first connect, keeps fewer values than a tag needs; in a group.
        """
        async with asyncio.TaskGroup() as group:
            for number, share in enumerate(self._shares):
                group.create_task(share.run(), name=f"{self.endpoint.source} session {number}")

    def _inherit(self) -> None:
        """Go on from what an earlier collector left at the server."""
        positions = [share.inherit() for share in self._shares]
        known = [position for position in positions if position is not None]
        if len(known) == len(positions) and all(position.settled for position in known):
            self._continuing = set(self._shares)
        if known:                               # until it is asked, nothing was heard of it since
            asked_at = time.time() - max(position.asked_s for position in known)
            self._status.hear(micros_of_seconds(self.clock.at(asked_at)))

    async def apply(self, tags: Sequence[Tag]) -> None:
        """Collect these tags from now on, without touching those that stay.

        Returns when the server has answered, or at once where it is away: then it is asked when it is back. A meter
        that stands at another place of the register now is only told apart anew, here and not at the server.

        Parameters
        ----------
        tags
            All tags of the server.
        """
        self._deal(tags)
        await asyncio.gather(*(share.aligned() for share in self._shares))

    def _deal(self, tags: Sequence[Tag]) -> None:
        """Give each session its tags: those that it has, and of the new ones as many readings as the others."""
        homes = {meter: share for share in self._shares for meter in (*share.watched, *share.tags)}
        dealt: dict[Share, dict[str, Tag]] = {share: {} for share in self._shares}
        rates = dict.fromkeys(self._shares, 0.0)
        for tag in sorted(tags, key=lambda tag: tag.meter not in homes):
            share = homes.get(tag.meter) or min(self._shares, key=lambda share: rates[share])
            dealt[share][tag.meter] = tag
            rates[share] += 1.0 / tag.interval_s
        for share, its in dealt.items():
            share.want(its)

    def fill(self, hole: Hole, done: Callable[[Hole, bool], None]) -> None:
        """Fill a hole of one of its meters from the server's history, if it has one.

        Parameters
        ----------
        hole
            The hole; its readings at both ends are stored.
        done
            Told once whether it is filled, and that durably.
        """
        for share in self._shares:
            if any(tag.place == hole.place for tag in share.tags.values()):
                share.historian.fill(hole, done)
                return
        done(hole, False)

    # -- what its sessions tell -------------------------------------------------------------------------------------

    def changed(self) -> None:
        """Say how the server fares as a whole: it is receiving when every session is."""
        away = [share.away for share in self._shares if share.away is not None]
        self._status.refuse({meter: why for share in self._shares for meter, why in share.refused.items()})
        if not away:
            self._status.become(State.RECEIVING, "; ".join(filter(None, (s.refusals for s in self._shares))))
            self.armed.set()
        elif any(away):
            self._status.become(State.WAITING, next(filter(None, away)))

    def interrupted(self, cause: str, *, kept: bool = False) -> None:
        """Note that readings may be missing from here on; `kept`: only if the server's queues did not last."""
        if kept:
            self.batches.put_now(Chunk(self.endpoint.source, interruption=Interruption(cause, kept)))
            return
        self._continues = False
        self._untold += 1
        self.batches.put_now(Chunk(self.endpoint.source, interruption=Interruption(cause), committed=self._told))

    def _told(self) -> None:
        self._untold -= 1


    def continues(self, share: Share) -> None:
        """Note that a session goes on where an earlier collector's stopped; once all do, nothing was interrupted."""
        if share in self._continuing:
            self._continuing.discard(share)
            if not self._continuing:
                self._continues = True
                self.batches.put_now(Chunk(self.endpoint.source, interruption=Interruption(
                    NOT_RUNNING, kept=True, continues=True)))

    def is_settled(self) -> bool:
        """Whether nothing of it may be missing that is not marked."""
        return not self._untold and (self._continues or self._keeping.is_settled(self.endpoint.source))


    def is_leaving(self) -> bool:
        """Whether what came cannot be made durable, so that the next collector is to ask for it again."""
        return self._keeping.folder is not None and self._keeping.is_held_back()


def _sessions(server: OpcuaServer, tags: Iterable[Tag]) -> int:
    """Return over how many sessions the tags of a server are dealt."""
    rates = [1.0 / tag.interval_s for tag in tags]
    wanted = server.sessions or math.ceil(sum(rates) / RATE_A_SESSION)
    return max(1, min(wanted, len(rates)))
