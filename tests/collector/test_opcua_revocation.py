"""Revocation lists: what they say, and what is wrong with them."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from collector.opcua import revocation
from collector.opcua.revocation import why_revoked

NOW = datetime.now(UTC)
DAY = timedelta(days=1)


class Issuer:
    """An authority with its own key, its certificates and lists."""

    def __init__(self, name):
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self.own = self.certificate(name, self.key.public_key())

    def certificate(self, name, key=None):
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        return (x509.CertificateBuilder().subject_name(subject).issuer_name(self.name)
                .public_key(key or ec.generate_private_key(ec.SECP256R1()).public_key())
                .serial_number(x509.random_serial_number()).not_valid_before(NOW - DAY).not_valid_after(NOW + DAY)
                .sign(self.key, hashes.SHA256()))

    def revoking(self, *certificates, until=NOW + DAY, reason=None, key=None):
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.name).last_update(NOW - 3 * DAY)
        builder = builder.next_update(until)
        for certificate in certificates:
            entry = x509.RevokedCertificateBuilder().serial_number(certificate.serial_number)
            entry = entry.revocation_date(datetime(2026, 3, 1, tzinfo=UTC))
            if reason is not None:
                entry = entry.add_extension(x509.CRLReason(reason), critical=False)
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(key or self.key, hashes.SHA256())


@pytest.fixture
def plant():
    return Issuer("plant")


@pytest.fixture
def why(tmp_path, plant):
    """Tell why a certificate of the plant is refused, with these lists in the folder."""

    def why(certificate, *lists, encoding=Encoding.DER, name="list{}.crl", trusted=None):
        for number, one in enumerate(lists):
            (tmp_path / name.format(number)).write_bytes(one if isinstance(one, bytes) else one.public_bytes(encoding))
        return why_revoked([certificate, plant.own], [plant.own] if trusted is None else trusted, tmp_path)

    return why


@pytest.mark.parametrize(("encoding", "name"), [
    (Encoding.DER, "list{}.crl"), (Encoding.PEM, "list{}.crl"), (Encoding.PEM, "a{}.PEM"), (Encoding.DER, "a{}.der")])
def test_a_certificate_that_its_authority_names_is_refused_with_the_list(plant, why, tmp_path, encoding, name):
    lost = plant.certificate("PLC 7")
    said = why(lost, plant.revoking(lost, reason=x509.ReasonFlags.key_compromise), encoding=encoding, name=name)
    assert said == (f"the certificate of CN=PLC 7 was revoked on 2026-03-01 (keyCompromise), says "
                    f"{tmp_path / name.format(0)} (hint: give the server a new one)")


def test_others_are_not(plant, why):
    assert why(plant.certificate("PLC 7"), plant.revoking(plant.certificate("PLC 8"))) is None
    assert why(plant.certificate("PLC 7"), Issuer("other").revoking()) is None


def test_without_a_folder_nothing_is_revoked(plant, tmp_path):
    assert why_revoked([plant.certificate("PLC 7")], [plant.own], tmp_path / "none") is None


def test_an_authority_that_is_named_vouches_for_nobody(plant, why):
    assert "CN=plant was revoked" in why(plant.certificate("PLC 7"), plant.revoking(plant.own))


def test_any_list_may_name_it(plant, why):
    lost = plant.certificate("PLC 7")
    assert "list1.crl" in why(lost, plant.revoking(), plant.revoking(lost))


def test_a_list_of_an_authority_that_is_not_trusted_itself_is_heeded(plant, why):
    lost = plant.certificate("PLC 7")
    assert "was revoked" in why(lost, plant.revoking(lost), trusted=[])


def test_a_list_that_another_has_signed_refuses(plant, why):
    forged = plant.revoking(key=Issuer("thief").key)
    assert "list0.crl is not signed by CN=plant" in why(plant.certificate("PLC 7"), forged)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"])
def test_a_list_that_cannot_be_read_refuses(plant, why, content):
    assert "list0.crl cannot be read" in why(plant.certificate("PLC 7"), content)


def test_notes_are_passed_over(plant, why):
    assert why(plant.certificate("PLC 7"), b"ask Karen", name="note{}.txt") is None


def test_a_list_that_is_late_holds_and_is_warned_of_once(plant, why, caplog):
    caplog.set_level(logging.WARNING)
    revocation._warn_late.cache_clear()
    lost = plant.certificate("PLC 7")
    late = plant.revoking(lost, until=NOW - DAY)
    assert why(plant.certificate("PLC 8"), late) is None
    assert "was revoked" in why(lost, late)
    assert caplog.text.count("was to be renewed by") == 1
