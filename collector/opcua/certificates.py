"""Certificates and keys in files: those that the operator gives, and our own, made where there is none yet."""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from park.errors import InputError
from park.servers import OpcuaServer

KEY_BITS = 2048             # what every policy allows (part 7: 2048 to 4096)
VALID_DAYS = 3650           # nobody is at hand at a plant when it ends; a park that wants less gives its own
NAME = "Symbiosis collector"


@dataclass(frozen=True)
class Identity:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: rsa.RSAPrivateKey = field(repr=False)

    @property
    def application_uri(self) -> str | None:
        """The URI for which the certificate is made out; None if it names none."""
        try:
            names = self.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            return None
        return next(iter(names.get_values_for_type(x509.UniformResourceIdentifier)), None)


def own_identity(server: OpcuaServer, application_uri: str) -> Identity:
    """Return our certificate as application, made and written first if neither it nor its key is there.

    Raises
    ------
    InputError
        If the key of a certificate is missing, or a file cannot be read, written or used.
    """
    certificate, key = Path(server.cert_file), Path(server.key_file)
    password = None if server.key_password is None else server.key_password.read(f"{server.name}: key_password")
    if certificate.exists() and not key.exists():
        raise InputError(f"{server.name}: there is no file {str(key)!r}, the key of {str(certificate)!r} "
                         "(hint: bring it back, or delete the certificate, and both are made anew)")
    if not key.exists():
        _create(server.name, key, pem_of(rsa.generate_private_key(65537, KEY_BITS), password), 0o600)
    if not certificate.exists():
        made = _self_signed(_key(server.name, server.key_file, password), application_uri)
        encoding = serialization.Encoding.PEM if certificate.suffix == ".pem" else serialization.Encoding.DER
        _create(server.name, certificate, made.public_bytes(encoding), 0o644)
    return read_identity(server.name, server.cert_file, server.key_file, password)


def read_identity(what: str, cert_file: str, key_file: str, password: str | None) -> Identity:
    """Return a certificate and its key from files, DER or PEM.

    Raises
    ------
    InputError
        If one cannot be read, the two do not belong together, or the certificate is not in force.
    """
    try:
        certificate = load_certificate(_bytes(what, cert_file))
    except ValueError:
        raise InputError(f"{what}: {cert_file!r} is no certificate, DER or PEM") from None
    key = _key(what, key_file, password)
    if certificate.public_key() != key.public_key():
        raise InputError(f"{what}: {cert_file!r} is not the certificate of the key in {key_file!r}")
    now = datetime.now(UTC)
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise InputError(f"{what}: {cert_file!r} is valid from {certificate.not_valid_before_utc:%Y-%m-%d} to "
                         f"{certificate.not_valid_after_utc:%Y-%m-%d} only")
    return Identity(certificate, key)


def load_certificate(data: bytes) -> x509.Certificate:
    """Return a certificate from DER or PEM.

    Raises
    ------
    ValueError
        If it is neither.
    """
    return x509.load_pem_x509_certificate(data) if b"-----BEGIN" in data else x509.load_der_x509_certificate(data)


def pem_of(key: rsa.RSAPrivateKey, password: str | None = None) -> bytes:
    """Return a key as PEM, encrypted if there is a password."""
    encryption = serialization.BestAvailableEncryption(password.encode()) if password \
        else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def _bytes(what: str, name: str) -> bytes:
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise InputError(f"{what}: cannot read {name!r}: {(error.strerror or str(error)).lower()}") from None


def _key(what: str, name: str, password: str | None) -> rsa.RSAPrivateKey:
    """Return a private key; what is wrong with it is said without a word of it."""
    data, secret = _bytes(what, name), None if password is None else password.encode()
    load = serialization.load_pem_private_key if b"-----BEGIN" in data else serialization.load_der_private_key
    try:
        key = load(data, secret)
    except TypeError:
        lacks = "needs a password" if password is None else "has no password, but one is given"
        raise InputError(f"{what}: the key in {name!r} {lacks}") from None
    except ValueError:
        raise InputError(f"{what}: {name!r} holds no key that can be read with what is given") from None
    if not isinstance(key, rsa.RSAPrivateKey):
        raise InputError(f"{what}: the key in {name!r} is no RSA key, which OPC UA's policies ask for")
    return key


def _self_signed(key: rsa.RSAPrivateKey, application_uri: str) -> x509.Certificate:
    """Return a new certificate of ours, with what part 6, 6.2.2 asks for in it."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    now = datetime.now(UTC)
    usage = x509.KeyUsage(
        digital_signature=True, content_commitment=True, key_encipherment=True, data_encipherment=True,
        key_agreement=False, key_cert_sign=True, crl_sign=False, encipher_only=False, decipher_only=False)
    builder = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))             # clocks of plants differ
        .not_valid_after(now + timedelta(days=VALID_DAYS))
        .add_extension(x509.SubjectAlternativeName(
            [x509.UniformResourceIdentifier(application_uri), x509.DNSName(socket.gethostname())]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    )
    return builder.sign(key, hashes.SHA256())


def _create(what: str, path: Path, data: bytes, mode: int) -> None:
    """Write a file whole or not at all; where another service has just written it, that one stays."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)        # fails where it is there; renaming would not
        draft.unlink()
    except OSError as error:
        raise InputError(
            f"{what}: cannot write {str(path)!r}: {(error.strerror or str(error)).lower()}") from None
