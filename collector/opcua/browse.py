"""What an OPC UA server offers: its numeric variables with engineering units and ranges, found by browsing.

Level by level from the Objects folder, many nodes a call, each node once however many ways lead to it. The standard
nodes of namespace 0 (the server's own diagnostics) are left out. The way in is `browse`.
"""

from __future__ import annotations

import asyncio
import base64
import fnmatch
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

from asyncua import ua
from asyncua.client.ua_session import UaSession
from asyncua.ua.uaerrors import UaStatusCodeError

from collector.discovery import Found, Offer, unit_named
from collector.opcua.engineering_units import unit_of_code
from collector.opcua.failures import FAILED, TOO_MANY, reason_of
from collector.opcua.security import settings_of
from collector.opcua.session import Connection, connect
from park.errors import SourceError
from park.servers import OpcuaServer

COLUMNS = ("opcua.endpoint", "opcua.node_id")
DEPTH = 8               # levels below Objects: site, area, line, unit, device, group, signal, and one more
NODES_A_CALL = 100      # what small controllers take in one call
MOST_NODES = 200_000    # a server with more is asked with a filter or less depth
CONNECT_S = 10.0

_TOO_MANY = (*TOO_MANY, ua.StatusCodes.BadNoContinuationPoints)
_NUMERIC = frozenset({*range(1, 12), 26, 27, 28, 29})       # Boolean to Double, abstract types, Enumeration (part 6)
_VALUES = {"EngineeringUnits": "units", "EURange": "range"}

_One = TypeVar("_One")
_Answer = TypeVar("_Answer")


@dataclass
class _Node:
    """A node on the way: where it is, and the properties that were found at it."""

    id: ua.NodeId
    path: tuple[str, ...]
    is_variable: bool
    properties: dict[str, ua.NodeId] = field(default_factory=dict)


async def browse(url: str, *, depth: int = DEPTH, pattern: str = "", server: OpcuaServer | None = None) -> Offer:
    """Return the numeric variables of a server.

    Parameters
    ----------
    url
        ``opc.tcp://host:port``.
    depth
        Levels below the Objects folder.
    pattern
        Only variables whose path, such as ``Power/Header/FT101``, holds this text, or fits it if it has ``*`` or
        ``?``; upper and lower case are the same. Empty: all.
    server
        How it is reached: security, certificates, user. None: without security, as whom the URL says.

    Raises
    ------
    InputError
        If a secret, certificate or key of ours cannot be read.
    SourceError
        If the server cannot be reached, or fails on the way.
    """
    settings = settings_of(server or OpcuaServer(id=_without_user(url), endpoint=url))
    connection = None
    try:
        async with asyncio.timeout(CONNECT_S):
            connection = await connect(url, settings)
        return await _offer(connection, _without_user(url), depth, pattern)
    except FAILED as error:
        raise SourceError(f"cannot browse {_without_user(url)}: {reason_of(error)}") from error
    finally:
        if connection is not None:
            await connection.close()


async def _offer(connection: Connection, url: str, depth: int, pattern: str) -> Offer:
    session = connection.session
    namespaces = await connection.namespaces()
    offer = Offer()
    variables = [node for node in await _variables(session, depth, offer) if fits("/".join(node.path), pattern)]
    types = await _read(session, [(node.id, attribute) for node in variables for attribute in (
        ua.AttributeIds.DataType, ua.AttributeIds.ValueRank, ua.AttributeIds.Value)])
    numeric = [node for place, node in enumerate(variables) if _is_number(*types[3 * place : 3 * place + 3])]
    if len(numeric) < len(variables):
        offer.remarks.append(f"{len(variables) - len(numeric)} variables are not single numbers, and are left out")
    asked = [(node, name) for node in numeric for name in node.properties]
    values = await _read(session, [(node.properties[name], ua.AttributeIds.Value) for node, name in asked])
    told: dict[int, dict[str, Any]] = {}
    for (node, name), value in zip(asked, values, strict=True):
        told.setdefault(id(node), {})[name] = _value(value)
    for node in numeric:
        what = told.get(id(node), {})
        offer.found.append(Found(
            _names(node.path), {"opcua.endpoint": url, "opcua.node_id": node_id_text(node.id, namespaces)},
            _unit(what.get("units"), node, offer), _span(what.get("range"))))
    return offer


async def _variables(session: UaSession, depth: int, offer: Offer) -> list[_Node]:
    """Return all variables down to a depth, with the ids of their properties."""
    level = [_Node(_standard(ua.ObjectIds.ObjectsFolder), (), is_variable=False)]
    seen: set[ua.NodeId] = set()
    variables: list[_Node] = []
    while level:
        following: list[_Node] = []
        for node, references in zip(level, await _references(session, level), strict=True):
            for reference in references:
                child = _child(node, reference, seen, depth)
                if child is not None:
                    following.append(child)
        variables += [node for node in following if node.is_variable]
        if len(seen) > MOST_NODES:
            offer.remarks.append(f"browsing ended at {MOST_NODES} nodes (hint: --depth, --filter)")
            break
        # At the last level only what may have properties is looked into.
        level = [node for node in following if node.is_variable or len(node.path) < depth]
    return variables


def _child(node: _Node, reference: ua.ReferenceDescription, seen: set[ua.NodeId], depth: int) -> _Node | None:
    """Return the node that a reference leads to, if it is to be looked at; note it if it is a property."""
    target = ua.NodeId(reference.NodeId.Identifier, reference.NodeId.NamespaceIndex, reference.NodeId.NodeIdType)
    name = reference.BrowseName.Name or str(target.Identifier)
    if reference.ReferenceTypeId == _standard(ua.ObjectIds.HasProperty):
        if node.is_variable and name in _VALUES:
            node.properties[_VALUES[name]] = target
        return None
    if target.NamespaceIndex == 0 or target in seen or len(node.path) >= depth:
        return None
    seen.add(target)
    return _Node(target, (*node.path, name), is_variable=reference.NodeClass == ua.NodeClass.Variable)


async def _references(session: UaSession, nodes: Sequence[_Node]) -> list[list[ua.ReferenceDescription]]:
    """Return the children of nodes, in their order."""

    async def ask(some: Sequence[_Node]) -> list[list[ua.ReferenceDescription]]:
        results = await session.browse(ua.BrowseParameters(NodesToBrowse=[
            ua.BrowseDescription(
                NodeId=node.id, BrowseDirection=ua.BrowseDirection.Forward,
                ReferenceTypeId=_standard(ua.ObjectIds.HierarchicalReferences), IncludeSubtypes=True,
                NodeClassMask=ua.NodeClass.Object | ua.NodeClass.Variable, ResultMask=ua.BrowseResultMask.All)
            for node in some]))
        return [await _all_of(session, result) for result in results]

    return await _in_calls(list(nodes), ask)


async def _all_of(session: UaSession, result: ua.BrowseResult) -> list[ua.ReferenceDescription]:
    """Return the references of a result, those that the server gives only when asked again included."""
    if not result.StatusCode.is_good():
        if result.StatusCode.value in _TOO_MANY:
            result.StatusCode.check()
        return []               # a node that may not be browsed hides what is under it, and nothing else
    found = list(result.References or ())
    while result.ContinuationPoint:
        [result] = await session.browse_next(ua.BrowseNextParameters(ContinuationPoints=[result.ContinuationPoint]))
        result.StatusCode.check()
        found += result.References or ()
    return found


async def _read(session: UaSession, what: Sequence[tuple[ua.NodeId, ua.AttributeIds]]) -> list[ua.DataValue]:
    """Return attributes, in their order."""

    async def ask(some: Sequence[tuple[ua.NodeId, ua.AttributeIds]]) -> list[ua.DataValue]:
        return list(await session.read(ua.ReadParameters(NodesToRead=[
            ua.ReadValueId(NodeId=node, AttributeId=attribute) for node, attribute in some])))

    return await _in_calls(list(what), ask)


async def _in_calls(
    what: list[_One], ask: Callable[[Sequence[_One]], Awaitable[list[_Answer]]]
) -> list[_Answer]:
    """Ask for many things in calls that the server can answer: halved when it says that there are too many."""
    answers: list[_Answer] = []
    size = NODES_A_CALL
    while len(answers) < len(what):
        try:
            answers += await ask(what[len(answers) : len(answers) + size])
        except UaStatusCodeError as error:
            if error.code not in _TOO_MANY or size == 1:
                raise
            size //= 2
    return answers


def fits(path: str, pattern: str) -> bool:
    """Whether a path holds a text, or fits a pattern with ``*`` or ``?``."""
    path, pattern = path.lower(), pattern.lower()
    if "*" in pattern or "?" in pattern:
        return fnmatch.fnmatchcase(path, pattern)
    return pattern in path


def _standard(number: int) -> ua.NodeId:
    """Return a node of namespace 0."""
    return ua.NodeId(ua.Int32(number))


def _value(data: ua.DataValue) -> Any:
    return None if data.Value is None else data.Value.Value


def _is_number(kind: ua.DataValue, rank: ua.DataValue, value: ua.DataValue) -> bool:
    """Whether a variable holds one number or Boolean: by its value if it has one, else by its type."""
    variant = value.Value
    if variant is not None and variant.Value is not None:
        return not isinstance(variant.Value, list) and variant.VariantType.value in _NUMERIC
    data_type = _value(kind)
    scalar = _value(rank) in (None, ua.ValueRank.Scalar, ua.ValueRank.Any, ua.ValueRank.ScalarOrOneDimension)
    return scalar and isinstance(data_type, ua.NodeId) and data_type.NamespaceIndex == 0 \
        and data_type.Identifier in _NUMERIC


def _unit(told: Any, node: _Node, offer: Offer) -> str:
    """Return the contract's unit, empty if the server's is none of them."""
    if not isinstance(told, ua.EUInformation):
        return ""
    name = told.DisplayName.Text or ""
    unit = unit_named(name) or unit_of_code(told.UnitId)
    if not unit:
        offer.remarks.append(f"{'/'.join(node.path)}: unit {name!r} is none that a meter can have")
    return unit


def _span(told: Any) -> tuple[float, float] | None:
    if isinstance(told, ua.Range) and math.isfinite(told.Low) and math.isfinite(told.High) and told.Low < told.High:
        return float(told.Low), float(told.High)
    return None


def _names(path: tuple[str, ...]) -> list[str]:
    """Return the names of a node, from its own to its whole path."""
    return [".".join(path[-count:]) for count in range(1, len(path) + 1)]


def node_id_text(node: ua.NodeId, namespaces: Sequence[str]) -> str:
    """Return a node id by namespace URI, which holds when the server counts its namespaces differently one day."""
    kind = {str: "s", int: "i", bytes: "b"}.get(type(node.Identifier), "g")
    identifier = node.Identifier
    text = base64.b64encode(identifier).decode() if isinstance(identifier, bytes) else str(identifier)
    if kind == "g" and isinstance(identifier, str):
        kind = "s"
    elif kind == "g" and isinstance(identifier, int):
        kind = "i"
    if node.NamespaceIndex >= len(namespaces):
        return f"ns={node.NamespaceIndex};{kind}={text}"
    uri = namespaces[node.NamespaceIndex].replace("%", "%25").replace(";", "%3B")       # part 6, 5.1.12
    return f"nsu={uri};{kind}={text}"


def _without_user(url: str) -> str:
    """Return a URL that holds no password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
