"""Secrets of park.yaml: an entry names the environment variable or file that holds one, never the secret itself.

Read when a connection is made ready, by the service that connects: others need not have it.
"""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from park.entry import Entry
from park.errors import InputError


class Secret(Entry):
    """Where a secret is found: exactly one of the two."""

    env: str | None = None
    file: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _names_one_place(cls, value: object) -> object:
        """Refuse anything else in words of our own: pydantic's would quote what may be the secret itself."""
        places = {key: place for key, place in value.items() if place is not None} if isinstance(value, dict) else {}
        if not isinstance(value, cls) and (
            len(places) != 1 or not {*places} <= {*cls.model_fields}
            or not all(isinstance(place, str) and place for place in places.values())
        ):
            raise PydanticCustomError("secret", "must name an environment variable or a file that holds it")
        return value

    def read(self, what: str) -> str:
        """Return the secret; of a file without the line end that editors put there.

        Parameters
        ----------
        what
            Whose it is, as the error names it: ``broker 'plant': password``.

        Raises
        ------
        InputError
            If the variable is not set, or the file cannot be read or is empty; the text holds no secret.
        """
        if self.env is not None:
            secret = os.environ.get(self.env, "")
            if not secret:
                raise InputError(f"{what}: environment variable {self.env!r} is not set (hint: this service needs it)")
            return secret
        try:
            secret = Path(self.file or "").read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, ValueError) as error:
            reason = error.strerror.lower() if isinstance(error, OSError) and error.strerror else "not UTF-8 text"
            raise InputError(f"{what}: cannot read {self.file!r}: {reason}") from None
        if not secret:
            raise InputError(f"{what}: {self.file!r} is empty")
        return secret
