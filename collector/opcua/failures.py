"""What goes wrong at an OPC UA server, in the library's words and in ours.

Here is what is to be expected of a server that is away, broken or does not want us. Whatever else is raised is a fault,
which is caught where sources run (`collector.sources`). The way in is `FAILED`.
"""

from __future__ import annotations

import struct

from asyncua import ua
from asyncua.ua.uaerrors import UaError, UaStatusCodeError

# What asyncua raises when a server is gone or answers with what cannot be read.
FAILED = (OSError, TimeoutError, UaError, struct.error, ValueError, LookupError)
TOO_MANY = (ua.StatusCodes.BadTooManyOperations, ua.StatusCodes.BadRequestTooLarge,
            ua.StatusCodes.BadEncodingLimitsExceeded, ua.StatusCodes.BadResponseTooLarge)
_OF_OUR_CERTIFICATE = "BadCertificate"      # how the codes for it begin (part 4, 6.1.3)


def is_of_our_certificate(error: BaseException) -> bool:
    """Whether a server refuses us for our certificate; most say only that some check has failed (part 4, 6.1.3)."""
    if not isinstance(error, UaStatusCodeError):
        return False
    name = ua.StatusCode(ua.UInt32(error.code)).name
    return error.code == ua.StatusCodes.BadSecurityChecksFailed or name.startswith(_OF_OUR_CERTIFICATE)


def reason_of(error: BaseException) -> str:
    """Return why a server is away, in one clause."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(error).strip().rstrip(".") or type(error).__name__
