"""Who we are to a server, and whether it is who we trust: settings with their secrets, endpoints, certificates.

Files and secrets are read once, before any connection (`settings_of`); a server's certificate is looked at before
anything is sent to it that it could misuse (`secure`). Our own certificate is made in `opcua.certificates`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlparse

from asyncua import Client, ua
from asyncua.crypto import security_policies as policies
from asyncua.crypto.uacrypto import CertProperties
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from collector.opcua.certificates import Identity, load_certificate, own_identity, pem_of, read_identity
from collector.opcua.revocation import why_revoked
from park.servers import OpcuaServer

APPLICATION_URI = "urn:symbiosis:collector"
CERTIFICATE_FILES = (".der", ".pem", ".crt", ".cer")

_POLICIES: dict[str, type[policies.SecurityPolicy]] = {
    "None": policies.SecurityPolicyNone,
    "Basic256Sha256": policies.SecurityPolicyBasic256Sha256,
    "Aes128_Sha256_RsaOaep": policies.SecurityPolicyAes128Sha256RsaOaep,
    "Aes256_Sha256_RsaPss": policies.SecurityPolicyAes256Sha256RsaPss,
}
_MODES = {"None": ua.MessageSecurityMode.None_, "Sign": ua.MessageSecurityMode.Sign,
          "SignAndEncrypt": ua.MessageSecurityMode.SignAndEncrypt}


class ServerRefusedError(ConnectionError):
    """A server is not trusted, or offers not what its settings ask for; it is tried again, as others are."""


@dataclass(frozen=True)
class Settings:
    """What is needed to connect to a server, secrets included, which no text of it shows.

    Attributes
    ----------
    server
        Its entry in park.yaml, or the defaults.
    own
        Our certificate as application; None without security.
    user
        Our certificate as user; None for a user name, or for none.
    password
        Of the user name.
    """

    server: OpcuaServer
    own: Identity | None = None
    user: Identity | None = None
    password: str | None = field(default=None, repr=False)

    @property
    def application_uri(self) -> str:
        """Our URI, which a server holds against our certificate."""
        return (self.own.application_uri if self.own is not None else None) or APPLICATION_URI

    @property
    def session_timeout_s(self) -> float:
        """A server drops our session this long after we vanished."""
        return self.server.session_timeout_s


def settings_of(server: OpcuaServer) -> Settings:
    """Return the settings of a server with its secrets read, and with a certificate of ours where it needs one.

    Raises
    ------
    InputError
        If a secret or file cannot be read, or is not what it should be.
    """
    own = user = password = None
    if server.security_policy != "None":
        own = own_identity(server, APPLICATION_URI)
    if server.user_cert_file is not None and server.user_key_file is not None:
        key_password = _secret(server, "user_key_password")
        user = read_identity(f"{server.name}: user", server.user_cert_file, server.user_key_file, key_password)
    if server.password is not None:
        password = _secret(server, "password")
    return Settings(server, own, user, password)


def _secret(server: OpcuaServer, key: str) -> str | None:
    secret = getattr(server, key)
    return None if secret is None else str(secret.read(f"{server.name}: {key}"))


async def secure(client: Client, settings: Settings) -> None:
    """Make a client ready to connect as the settings say, and hold the server's certificate against the trust list.

    Parameters
    ----------
    client
        Not connected yet.
    settings
        Of the server.

    Raises
    ------
    ServerRefusedError
        If the server offers no endpoint of that kind, or its certificate is not trusted.
    """
    server = settings.server
    if settings.user is not None:
        client.user_certificate, client.user_private_key = settings.user.certificate, settings.user.key
    elif server.user is not None:
        client.set_user(server.user)
        client.set_password(settings.password or "")
    if settings.own is None and server.use_configured_host:
        return
    # Asked over a channel of its own without security, as every server allows (part 4, 5.5.4); nothing secret is told.
    endpoint = _endpoint(await client.connect_and_get_server_endpoints(), server)
    if not server.use_configured_host:
        client._server_url = urlparse(endpoint.EndpointUrl)
    if settings.own is not None:
        certificate = _trusted(endpoint.ServerCertificate or b"", server)
        await client.set_security(
            _POLICIES[server.security_policy], _der(settings.own.certificate),
            CertProperties(pem_of(settings.own.key), "PEM"),
            server_certificate=_der(certificate), mode=_MODES[server.mode])


def _endpoint(offered: Iterable[ua.EndpointDescription], server: OpcuaServer) -> ua.EndpointDescription:
    """Return the endpoint that has the policy and mode of the settings."""
    policy, mode = _POLICIES[server.security_policy], _MODES[server.mode]
    others = set()
    for endpoint in offered:
        if endpoint.SecurityPolicyUri == policy.URI and endpoint.SecurityMode == mode:
            return endpoint
        others.add(f"{(endpoint.SecurityPolicyUri or '').rpartition('#')[2]} {endpoint.SecurityMode.name.strip('_')}")
    raise ServerRefusedError(
        f"it offers no endpoint with {server.security_policy} {server.mode}, but {', '.join(sorted(others)) or 'none'}")


def _trusted(der: bytes, server: OpcuaServer) -> x509.Certificate:
    """Return a server's certificate if it is in force, trusted and not revoked; put a strange one to the rejected."""
    try:
        certificate = x509.load_der_x509_certificate(_first(der))
    except ValueError:
        raise ServerRefusedError("its certificate cannot be read") from None
    now = datetime.now(UTC)
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise ServerRefusedError(
            f"its certificate is valid from {certificate.not_valid_before_utc:%Y-%m-%d} "
            f"to {certificate.not_valid_after_utc:%Y-%m-%d} only (hint: renew it at the server)")
    trusted = _certificates(Path(server.trusted_folder))
    vouching = next((known for known in trusted if _vouches(known, certificate)), None)
    if vouching is not None:
        revoked = why_revoked((certificate, vouching), trusted, Path(server.crl_folder))
        if revoked is not None:
            raise ServerRefusedError(revoked)
        return certificate
    rejected = _keep_rejected(certificate, Path(server.rejected_folder))
    raise ServerRefusedError(
        f"its certificate is not trusted, SHA-256 {_thumbprint(certificate)} (hint: compare that with the server's, "
        f"then move {rejected} to {server.trusted_folder})")


def _first(der: bytes) -> bytes:
    """Return the first certificate of a chain: some servers send theirs with that of their authority behind it."""
    long_form = der[1:2] == b"\x82"                     # a length of two bytes, as every certificate has
    return der[: int.from_bytes(der[2:4], "big") + 4] if long_form else der


def _vouches(known: x509.Certificate, certificate: x509.Certificate) -> bool:
    """Whether a certificate of the trust list is the server's own, or that of the authority which signed it."""
    if known == certificate:
        return True
    with contextlib.suppress(x509.ExtensionNotFound, InvalidSignature, ValueError, TypeError):
        if known.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            certificate.verify_directly_issued_by(known)
            return known.not_valid_before_utc <= datetime.now(UTC) <= known.not_valid_after_utc
    return False


def _certificates(folder: Path) -> list[x509.Certificate]:
    """Return the certificates of a folder; what is none is passed over, since people put notes there too."""
    found = []
    for path in sorted(folder.glob("*")):
        if path.suffix.lower() in CERTIFICATE_FILES:
            with contextlib.suppress(OSError, ValueError):
                found.append(load_certificate(path.read_bytes()))
    return found


def _keep_rejected(certificate: x509.Certificate, folder: Path) -> Path:
    """Put a certificate among the rejected, under a name by which people find it."""
    names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    name = "".join(sign for sign in str(names[0].value) if sign.isalnum() or sign in "-_")[:60] if names else "server"
    path = folder / f"{name}-{_thumbprint(certificate)[:16]}.der"
    with contextlib.suppress(FileExistsError):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "wb") as file:
                file.write(certificate.public_bytes(Encoding.DER))
        except FileExistsError:
            raise
        except OSError as error:
            raise ServerRefusedError(
                f"its certificate is not trusted, and cannot be put into {folder}: {error.strerror}") from error
    return path


def _thumbprint(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(hashes.SHA256()).hex()


def _der(certificate: x509.Certificate) -> CertProperties:
    return CertProperties(certificate.public_bytes(Encoding.DER), "DER")
