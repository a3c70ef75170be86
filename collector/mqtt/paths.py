"""JSON paths: RFC 9535 with names and indexes only, compiled once to steps."""

from __future__ import annotations

from typing import Any

import jsonpath_rfc9535 as jsonpath
from jsonpath_rfc9535.segments import JSONPathChildSegment
from jsonpath_rfc9535.selectors import IndexSelector, NameSelector

from park.errors import InputError

Steps = tuple[str | int, ...]


class _Missing:
    """There is nothing at a path."""


MISSING = _Missing()


def compile_path(path: str) -> Steps:
    """Return the steps of an RFC 9535 path of names and indexes: ``$.a[0]['b c']`` -> ``('a', 0, 'b c')``.

    Raises
    ------
    InputError
        If the path is malformed or can name more than one value.
    """
    try:
        segments = jsonpath.compile(path).segments
    except jsonpath.JSONPathError as error:
        raise InputError(f"JSON path {path!r}: {error}") from None
    steps: list[str | int] = []
    for segment in segments:
        selector = segment.selectors[0]
        if not isinstance(segment, JSONPathChildSegment) or len(segment.selectors) != 1:
            raise InputError(f"JSON path {path!r} must be of names and indexes only")
        if isinstance(selector, NameSelector):
            steps.append(selector.name)
        elif isinstance(selector, IndexSelector):
            steps.append(selector.index)
        else:
            raise InputError(f"JSON path {path!r} must be of names and indexes only")
    return tuple(steps)


def at(document: Any, steps: Steps) -> Any:
    """Return what stands at the steps, or `MISSING`."""
    for step in steps:
        try:
            document = document[step]
        except (KeyError, IndexError, TypeError):
            return MISSING
    return document
