"""What all entries of park.yaml are made of: the base model, and numbers, moments and units that are what they say.

Not here: the entries (`park.model`, `park.servers`, `park.brokers`).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Strict, ValidationInfo
from pydantic_core import PydanticCustomError


def _moment(value: object, info: ValidationInfo) -> datetime:
    """Read a date or a time; without an offset it is local to the park (`zone` of the context, else UTC)."""
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)    # type: ignore[arg-type]
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=(info.context or {}).get("zone", UTC))
        return moment.astimezone(UTC)
    except (TypeError, ValueError, OverflowError):      # Overflow: in UTC it lies before the year 1 or after 9999
        raise PydanticCustomError(
            "moment", "must be a date or an ISO 8601 time, such as 2026-01-01 or 2026-01-01T06:00:00+01:00") from None


def _unit(value: object) -> object:
    """Take the bare 1 of YAML for the unit 1."""
    return "1" if value == 1 and not isinstance(value, bool) else value


Number = Annotated[float, Strict()]                     # a text is no number, nor is true
Positive = Annotated[Number, Field(gt=0)]
NotNegative = Annotated[Number, Field(ge=0)]
Flag = Annotated[bool, Strict()]
Moment = Annotated[datetime, BeforeValidator(_moment)]
Unit = Annotated[str, BeforeValidator(_unit)]


class Entry(BaseModel):
    """Base of all entries: frozen, unknown keys are faults."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False)
