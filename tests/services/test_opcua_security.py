"""Who we are to a server, and whom we trust: certificates, users and hosts, at real servers with security."""

from __future__ import annotations

import asyncio
import logging
import stat
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from asyncua import ua
from asyncua.crypto.permission_rules import User, UserRole
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding

from collector.agent import collect
from collector.opcua.certificates import own_identity
from collector.opcua.security import settings_of
from collector.opcua.session import quiet_library
from collector.times import micros
from park.clock import REAL_TIME
from park.errors import InputError
from park.model import Park
from park.servers import OpcuaServer
from tests.collector.running import PATIENCE_S, at, opcua, park_of
from tests.collector.sourcing import sourcing, tag

SERVER_URI = "urn:tests:server"
PASSWORD = "tests-only"      # pragma: allowlist secret
POLICIES = {
    "Basic256Sha256": ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt,
    "Aes128_Sha256_RsaOaep": ua.SecurityPolicyType.Aes128Sha256RsaOaep_SignAndEncrypt,
    "Aes256_Sha256_RsaPss": ua.SecurityPolicyType.Aes256Sha256RsaPss_SignAndEncrypt,
}
SIGNED = ua.SecurityPolicyType.Basic256Sha256_Sign
SIGN = {"security_policy": "Basic256Sha256", "security_mode": "Sign"}
USER = {"user": "collector", "password": {"env": "PLC_PASSWORD"}}


@pytest.fixture(autouse=True)
def quiet():
    """Keep the library's log to itself, as every collector does: it writes passwords."""
    library = logging.getLogger("asyncua")
    before = library.level
    quiet_library()
    yield
    library.setLevel(before)


@pytest.fixture
def pki(tmp_path, monkeypatch):
    """Work in a folder of its own, in which the server's certificate and key are made."""
    monkeypatch.chdir(tmp_path)
    own_identity(OpcuaServer(id="s", endpoint="", cert_file="server/cert.der", key_file="server/key.pem"), SERVER_URI)
    return tmp_path


class Users:
    """Knows one user by name, and one by the certificate in user.der."""

    def get_user(self, _iserver, username=None, password=None, certificate=None):
        by_name = (username, password) == ("collector", PASSWORD)
        known = Path("user.der")
        by_certificate = username is None and known.exists() and certificate == known.read_bytes()
        return User(role=UserRole.Admin, name=username) if by_name or by_certificate else None


def secured(*policies, users=False):
    """Options of a test server with these policies."""
    return {"policies": [ua.SecurityPolicyType.NoSecurity, *policies], "users": Users() if users else None,
            "certificate": Path("server/cert.der"), "key": Path("server/key.pem")}


def trust(server_certificate: bool = False):
    """Move the rejected certificates to the trusted ones, as an operator does; or put the server's there at once."""
    folder = Path("pki/trusted")
    folder.mkdir(parents=True, exist_ok=True)
    for path in Path("pki/rejected").glob("*"):
        path.rename(folder / path.name)
    if server_certificate:
        (folder / "server.der").write_bytes(Path("server/cert.der").read_bytes())


def mode_of(name):
    return stat.S_IMODE(Path(name).stat().st_mode)


def rejected():
    """The files among the rejected, with what is in them."""
    return {str(path): path.read_bytes() for path in Path("pki/rejected").glob("*")}


@asynccontextmanager
async def trusting(server, **settings):
    """Collect from a server whose certificate was trusted before."""
    trust(server_certificate=True)
    async with sourcing(server.url, [tag("FT1")], **settings) as running:
        yield running


async def one_reading_comes(server, running):
    await server.push("FT1", 3.6, at(0))
    assert await running.got(1) == [(0, micros(at(0)), 3.6, 0)]


@pytest.mark.parametrize("policy", POLICIES)
async def test_values_come_signed_and_encrypted(opcua_server, pki, policy):
    server = await opcua_server(["FT1"], **secured(POLICIES[policy]))
    async with trusting(server, security_policy=policy) as running:
        await one_reading_comes(server, running)
    assert mode_of("pki/own/symbiosis.pem") == 0o600


async def test_a_server_that_is_not_trusted_is_refused_and_collected_once_an_operator_has_moved_its_certificate(
    opcua_server, pki, caplog
):
    server = await opcua_server(["FT1"], **secured(SIGNED))
    async with sourcing(server.url, [tag("FT1")], armed=False, **SIGN) as running:
        why = await running.is_away()
        assert why.startswith("its certificate is not trusted, SHA-256 ")
        [(name, content)] = rejected().items()
        assert f"then move {name} to pki/trusted" in why
        assert content == certificate_of_the_server()
        trust()
        await running.receives()
        await one_reading_comes(server, running)
    assert caplog.text.count("not trusted") == 1


async def test_an_authority_vouches_for_its_servers(opcua_server, pki):
    trust_an_authority()
    server = await opcua_server(["FT1"], **secured(SIGNED))
    async with sourcing(server.url, [tag("FT1")], **SIGN) as running:
        await one_reading_comes(server, running)


def put_list(revoking):
    Path("pki/crl").mkdir()
    Path("pki/crl/plant.crl").write_bytes(revoking.public_bytes(Encoding.DER))


async def test_a_server_whose_certificate_was_revoked_is_refused_at_the_next_connect(opcua_server, pki):
    name, key = trust_an_authority()
    server = await opcua_server(["FT1"], **secured(SIGNED))
    revoked = x509.RevokedCertificateBuilder().revocation_date(datetime(2026, 3, 1, tzinfo=UTC)).serial_number(
        x509.load_der_x509_certificate(certificate_of_the_server()).serial_number).build()
    builder = x509.CertificateRevocationListBuilder().issuer_name(name).last_update(datetime(2026, 3, 1, tzinfo=UTC))
    lists = builder.next_update(datetime.now(UTC) + timedelta(days=1)).add_revoked_certificate(revoked)
    async with sourcing(server.url, [tag("FT1")], **SIGN) as running:
        await one_reading_comes(server, running)
        put_list(lists.sign(key, hashes.SHA256()))
        await server.stop()
        await server.start()
        async with asyncio.timeout(PATIENCE_S):
            while "was revoked on 2026-03-01, says pki/crl/plant.crl" not in running.status.detail:  # noqa: ASYNC110
                await asyncio.sleep(0.02)       # a detail alone changes in silence
    assert rejected() == {}


async def test_a_policy_that_the_server_does_not_offer_is_said_with_those_that_it_does(opcua_server, pki):
    server = await opcua_server(["FT1"], **secured(SIGNED))
    async with sourcing(server.url, [tag("FT1")], armed=False, security_policy="Aes256_Sha256_RsaPss") as running:
        assert await running.is_away() == (
            "it offers no endpoint with Aes256_Sha256_RsaPss SignAndEncrypt, but Basic256Sha256 Sign, None None")


async def test_a_user_is_known_by_name_and_password_and_neither_is_ever_shown(opcua_server, pki, monkeypatch, caplog):
    monkeypatch.setenv("PLC_PASSWORD", PASSWORD)
    caplog.set_level(logging.DEBUG)
    server = await opcua_server(["FT1"], **secured(POLICIES["Basic256Sha256"], users=True))
    async with trusting(server, security_policy="Basic256Sha256", **USER) as running:
        await one_reading_comes(server, running)
        shown = repr(running.source.endpoint) + repr(running.source.endpoint.settings.own)
    entry = OpcuaServer.model_validate({"id": "plc", "endpoint": server.url} | USER)
    assert PASSWORD not in caplog.text + shown + repr(entry) + entry.model_dump_json()


async def test_a_wrong_password_is_refused_and_said_without_it(opcua_server, pki, monkeypatch):
    monkeypatch.setenv("PLC_PASSWORD", "another")
    trust(server_certificate=True)
    server = await opcua_server(["FT1"], **secured(POLICIES["Basic256Sha256"], users=True))
    async with sourcing(server.url, [tag("FT1")], armed=False, security_policy="Basic256Sha256", **USER) as running:
        why = await running.is_away()
    assert "BadUserAccessDenied" in why
    assert "another" not in why


async def test_a_user_is_known_by_certificate(opcua_server, pki):
    own_identity(OpcuaServer(id="u", endpoint="", cert_file="user.der", key_file="user.pem"), "urn:tests:user")
    server = await opcua_server(["FT1"], **secured(POLICIES["Basic256Sha256"], users=True))
    async with trusting(server, security_policy="Basic256Sha256", user_cert_file="user.der",
                        user_key_file="user.pem") as running:
        await one_reading_comes(server, running)


async def test_a_password_is_never_sent_unencrypted(opcua_server, monkeypatch):
    monkeypatch.setenv("PLC_PASSWORD", PASSWORD)
    server = await opcua_server(["FT1"], users=Users())
    async with sourcing(server.url, [tag("FT1")], armed=False, **USER) as running:
        assert (await running.is_away()).startswith("it wants the password unencrypted")


async def test_behind_nat_the_configured_host_is_kept_whatever_the_server_calls_itself(opcua_server, pki):
    server = await opcua_server(["FT1"], advertised="opc.tcp://10.255.255.1:4840", **secured(SIGNED))
    async with trusting(server, **SIGN) as running:
        await one_reading_comes(server, running)


async def test_else_the_server_is_reached_where_it_says(opcua_server):
    told = await opcua_server(["FT1"])
    teller = await opcua_server([], advertised=told.url)
    async with sourcing(teller.url, [tag("FT1")], use_configured_host=False) as running:
        await one_reading_comes(told, running)


# -- files, without a server ------------------------------------------------------------------------------------------


def test_a_certificate_is_made_once_and_kept(pki):
    server = OpcuaServer(id="plc", endpoint="", security_policy="Basic256Sha256")
    first = settings_of(server)
    assert first.application_uri == "urn:symbiosis:collector"
    assert settings_of(server).own.certificate == first.own.certificate


def test_a_key_without_its_certificate_gets_one(pki):
    server = OpcuaServer(id="plc", endpoint="", security_policy="Basic256Sha256")
    key = settings_of(server).own.key
    Path(server.cert_file).unlink()
    assert settings_of(server).own.key.private_numbers() == key.private_numbers()


def test_a_key_may_be_encrypted(pki, monkeypatch):
    monkeypatch.setenv("OWN_KEY", "of tests")
    server = OpcuaServer(id="plc", endpoint="", security_policy="Basic256Sha256", key_password={"env": "OWN_KEY"})
    settings_of(server)
    assert "ENCRYPTED" in Path(server.key_file).read_text()
    with pytest.raises(InputError, match=r"server 'plc': the key in 'pki/own/symbiosis.pem' needs a password"):
        settings_of(server.model_copy(update={"key_password": None}))
    monkeypatch.setenv("OWN_KEY", "wrong")
    with pytest.raises(InputError, match="holds no key that can be read"):
        settings_of(server)


@pytest.mark.parametrize(("spoil", "said"), [
    (lambda: Path("pki/own/symbiosis.pem").unlink(), "there is no file 'pki/own/symbiosis.pem', the key of"),
    (lambda: Path("pki/own/symbiosis.der").write_bytes(b"no"), "'pki/own/symbiosis.der' is no certificate"),
    (lambda: Path("pki/own/symbiosis.der").write_bytes(Path("server/cert.der").read_bytes()),
     "'pki/own/symbiosis.der' is not the certificate of the key in"),
    (lambda: Path("pki/own/symbiosis.pem").write_text("no"), "holds no key that can be read"),
])
def test_what_is_wrong_with_our_files_is_said_with_the_server(pki, spoil, said):
    server = OpcuaServer(id="plc", endpoint="", security_policy="Basic256Sha256")
    settings_of(server)
    spoil()
    with pytest.raises(InputError, match=f"^server 'plc': .*{said}"):
        settings_of(server)


def test_a_folder_that_cannot_be_written_is_said(pki):
    Path("pki").write_text("a file")
    with pytest.raises(InputError, match=r"server 'plc': cannot write 'pki/own/symbiosis\.pem'"):
        settings_of(OpcuaServer(id="plc", endpoint="", security_policy="Basic256Sha256"))


def test_a_secret_that_is_not_there_stops_the_start_before_any_connection(monkeypatch):
    monkeypatch.delenv("PLC_PASSWORD", raising=False)
    park = Park.model_validate(park_of(opcua("opc.tcp://h", "FT1")).model_dump(by_alias=True) | {
        "servers": [{"id": "plc", "endpoint": "opc.tcp://h"} | USER]})
    with pytest.raises(InputError, match="server 'plc': password: environment variable 'PLC_PASSWORD' is not set"):
        asyncio.run(collect(park, "", REAL_TIME, stop=asyncio.Event()))


def certificate_of_the_server():
    return Path("server/cert.der").read_bytes()


def trust_an_authority():
    """Give the server a certificate that an authority has signed, and trust that, among other files; return it."""
    own = x509.load_der_x509_certificate(certificate_of_the_server())
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Plant authority")])
    now = datetime.now(UTC)

    def builder(subject, public_key, *, is_authority):
        return (x509.CertificateBuilder().subject_name(subject).issuer_name(name).public_key(public_key)
                .serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(days=1))
                .not_valid_after(now + timedelta(days=2))
                .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True))

    signed = builder(own.subject, own.public_key(), is_authority=False)
    for extension in own.extensions:
        if not isinstance(extension.value, x509.BasicConstraints):
            signed = signed.add_extension(extension.value, extension.critical)
    Path("server/cert.der").write_bytes(signed.sign(key, hashes.SHA256()).public_bytes(Encoding.DER))
    folder = Path("pki/trusted")
    folder.mkdir(parents=True)
    authority = builder(name, key.public_key(), is_authority=True).sign(key, hashes.SHA256())
    (folder / "authority.pem").write_bytes(authority.public_bytes(Encoding.PEM))
    (folder / "notes.txt").write_text("the authority of the plant")
    (folder / "broken.der").write_bytes(b"no certificate")
    return name, key
