"""How OPC UA servers are reached that need more than an endpoint: the entries of the section `servers` of park.yaml.

Meters name a server by its endpoint; one without an entry here is reached with the defaults. Secrets never stand in
park.yaml: an entry names the environment variable or file that holds them.
"""

from __future__ import annotations

from park.entry import Entry


class OpcuaServer(Entry):
    """An OPC UA server, by the endpoint that its meters name."""

    id: str
    endpoint: str
