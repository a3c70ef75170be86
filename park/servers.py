"""How OPC UA servers are reached that need more than an endpoint: the entries of the section `servers` of park.yaml.

Meters name a server by its endpoint; one without an entry here is reached with the defaults, which are those of
`OpcuaServer`. Secrets never stand in park.yaml: an entry names the environment variable or file that holds them. Files
and folders are relative to where the service runs. What must hold between the keys is checked in
`park.checks.servers`; what is made of them is the collector's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field

from park.entry import Entry, Flag, Number, Positive
from park.secret import Secret

SecurityPolicy = Literal["None", "Basic256Sha256", "Aes128_Sha256_RsaOaep", "Aes256_Sha256_RsaPss"]
SecurityMode = Literal["None", "Sign", "SignAndEncrypt"]
Count = Annotated[int, Field(strict=True, ge=1)]
Percent = Annotated[Number, Field(gt=0, le=100)]


class Deadband(Entry):
    """A change of value that a server does not tell: exactly one of the two."""

    absolute: Positive | None = None            # in the unit of the server's value
    percent: Percent | None = None              # of the range that the server gives for the variable (EURange)


class OpcuaServer(Entry):
    """An OPC UA server, by the endpoint that its meters name."""

    id: str
    endpoint: str
    use_configured_host: Flag = True            # else that of the URL which the server gives for itself
    security_policy: SecurityPolicy = "None"
    security_mode: SecurityMode | None = None   # none: SignAndEncrypt where there is a policy
    cert_file: str = "pki/own/symbiosis.der"    # ours, as application; made with its key where neither is there
    key_file: str = "pki/own/symbiosis.pem"
    key_password: Secret | None = None
    trusted_folder: str = "pki/trusted"         # certificates of servers, or of authorities that sign them
    rejected_folder: str = "pki/rejected"       # where one is put that is not trusted
    crl_folder: str = "pki/crl"                 # revocation lists of the authorities
    user: str | None = None
    password: Secret | None = None
    user_cert_file: str | None = None           # in place of user and password
    user_key_file: str | None = None
    user_key_password: Secret | None = None
    publishing_interval_ms: Positive | None = None      # none: half the shortest interval of its meters, 100 to 500
    sampling_interval_ms: Positive | None = None        # none: half the meter's interval; a meter may have its own
    queue_size: Count | None = None                     # none: 10 s of readings; a meter may have its own
    deadband: Deadband | None = None                    # of meters on change; a meter may have its own
    session_timeout_s: Positive = 60.0
    items_per_call: Count = 100                 # an S7-1200 says 1,000 and is 50 times slower above 200
    sessions: Count | None = None               # none: one for each 5,000 readings a second

    @property
    def mode(self) -> SecurityMode:
        """The security mode that is meant."""
        return self.security_mode or ("None" if self.security_policy == "None" else "SignAndEncrypt")

    @property
    def name(self) -> str:
        """How messages call it."""
        return f"server {self.id!r}"


def server_at(endpoint: str, servers: Iterable[OpcuaServer]) -> OpcuaServer:
    """Return the settings of the server that meters name by this endpoint: its entry, else the defaults."""
    known = (server for server in servers if server.endpoint == endpoint)
    return next(known, OpcuaServer(id=endpoint, endpoint=endpoint))
