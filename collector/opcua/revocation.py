"""Revocation lists: certificates that their authority has taken back before their time (RFC 5280).

They are files in a folder of their own beside the trust list, and are read at each connect, so that a list that is put
there holds from the next one on. A list that cannot be read, or that its authority has not signed, refuses the server:
what it was to say is not known. One that is past its next update still holds for what it names, and is warned of.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

_logger = logging.getLogger(__name__)

LIST_FILES = (".crl", ".pem", ".der")


def why_revoked(
    certificates: Iterable[x509.Certificate], authorities: Sequence[x509.Certificate], folder: Path
) -> str | None:
    """Return why one of these certificates is not to be trusted, with the list that says so; None if none says so.

    Parameters
    ----------
    certificates
        A server's certificate, and the authority that vouches for it.
    authorities
        The trust list, against which the signatures of lists are held.
    folder
        Where the lists are.
    """
    certificates = list(certificates)
    for path in sorted(path for path in folder.glob("*") if path.suffix.lower() in LIST_FILES):
        for certificate in certificates:
            why = _why(certificate, authorities, path)
            if why is not None:
                return why
    return None


def _why(certificate: x509.Certificate, authorities: Sequence[x509.Certificate], path: Path) -> str | None:
    """Return why a list speaks against a certificate."""
    try:
        revoked_by = _list(path.read_bytes())
        if revoked_by.issuer != certificate.issuer:
            return None
        if not _is_signed(revoked_by, authorities):
            return f"the revocation list {path} is not signed by {_name(revoked_by.issuer)}, whose it says it is"
        entry = revoked_by.get_revoked_certificate_by_serial_number(certificate.serial_number)
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        return f"the revocation list {path} cannot be read: {error}"
    if revoked_by.next_update_utc is not None and revoked_by.next_update_utc < datetime.now(UTC):
        _warn_late(path, f"{revoked_by.next_update_utc:%Y-%m-%d}")
    if entry is None:
        return None
    return (f"the certificate of {_name(certificate.subject)} was revoked on {entry.revocation_date_utc:%Y-%m-%d}"
            f"{_reason(entry)}, says {path} (hint: give the server a new one)")


def _list(data: bytes) -> x509.CertificateRevocationList:
    return x509.load_pem_x509_crl(data) if b"-----BEGIN" in data else x509.load_der_x509_crl(data)


def _is_signed(revoked_by: x509.CertificateRevocationList, authorities: Sequence[x509.Certificate]) -> bool:
    """Whether a list is its authority's; of one that is not in the trust list, whoever put the list there vouches."""
    known = [authority for authority in authorities if authority.subject == revoked_by.issuer]
    return not known or any(_signed_by(revoked_by, authority) for authority in known)


def _signed_by(revoked_by: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    try:
        return revoked_by.is_signature_valid(authority.public_key())    # type: ignore[arg-type]  # a key that signs
    except TypeError:                   # a key of a kind that signs no lists
        return False


def _reason(entry: x509.RevokedCertificate) -> str:
    try:
        reason = entry.extensions.get_extension_for_class(x509.CRLReason).value.reason
    except x509.ExtensionNotFound:
        return ""
    return f" ({reason.value})"


def _name(name: x509.Name) -> str:
    return name.rfc4514_string()


@functools.cache
def _warn_late(path: Path, since: str) -> None:
    """Say once that a list is to be renewed."""
    _logger.warning("the revocation list %s was to be renewed by %s; what it names is refused, what came since is not "
                    "known (hint: put the authority's new list there)", path, since)
