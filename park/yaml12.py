"""YAML 1.2 with positions: what a file says, and on which line it says it.

Here is `parse`, which turns text into plain values by the YAML 1.2 core schema (``22:00`` and ``no`` are text, ``1e3``
is a number, ``0o17`` is octal, dates are text), finds duplicate keys, and keeps libyaml's nodes, so that
`Document.line` can tell the line of any value afterwards. Not here: what the keys mean.

libyaml reads; PyYAML's own resolver (YAML 1.1) and constructors are left out, which also makes it twice as fast.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from yaml import MarkedYAMLError, YAMLError
from yaml.cyaml import CParser  # type: ignore[attr-defined]
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.reader import ReaderError

from park.errors import Fault

Path = Sequence[str | int]

_TAG = "tag:yaml.org,2002:"
_STR, _MAP, _SEQ = _TAG + "str", _TAG + "map", _TAG + "seq"
_NULL, _BOOL, _INT, _FLOAT = _TAG + "null", _TAG + "bool", _TAG + "int", _TAG + "float"

# YAML 1.2.2, section 10.3.2: tag resolution of the core schema
_CORE = (
    (_NULL, re.compile(r"null|Null|NULL|~|")),
    (_BOOL, re.compile(r"true|True|TRUE|false|False|FALSE")),
    (_INT, re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")),
    (_FLOAT, re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")),
)

MAX_DEPTH = 100  # a park needs 6
STACK_DEPTH = 5_000  # libyaml's composer recurses; measured: 20,000 levels are well, 100,000 end the process


@dataclass
class Document:
    """A YAML document: its values, its nodes and what is wrong with it so far.

    Attributes
    ----------
    data
        Mappings, lists, texts, numbers, booleans and None.
    root
        libyaml's node tree; None for an empty document.
    faults
        Duplicate keys, keys that are no text, unknown tags, circles of aliases; or the one syntax error.
    """

    file: str
    data: object = None
    root: Node | None = None
    faults: list[Fault] = field(default_factory=list)

    def line(self, path: Path) -> int:
        """Return the line (from 1) of the value at `path`, or of the last part of the path that is there."""
        node, line = self.root, 1
        for step in path:
            found = _step(node, step)
            if found is None:
                break
            line, node = found
        return line


def parse(text: str, file: str) -> Document:
    """Return the document that `text` holds; `file` is its name in messages. Never raises: see `Document.faults`."""
    document = Document(file)
    depth_line = _too_deep(text)
    if depth_line:
        document.faults.append(Fault(file, depth_line, "", _NESTED, _NESTED_HINT))
        return document
    try:
        document.root = _Composer(text).get_single_node()
    except YAMLError as error:
        document.faults.append(_syntax_fault(error, text, file))
        return document
    if document.root is not None:
        document.data = _Builder(document).build(document.root)
    return document


def scalar(text: str) -> object:
    """Return the value that a plain (unquoted) `text` has in the core schema."""
    return _value(resolve(text), text)


def resolve(text: str) -> str:
    """Return the tag that a plain (unquoted) `text` has in the core schema."""
    tag = _RESOLVED.get(text)
    if tag is None:
        tag = next((tag for tag, pattern in _CORE if pattern.fullmatch(text)), _STR)
        if len(_RESOLVED) < 100_000:
            _RESOLVED[text] = tag
    return tag


_NESTED = f"more than {MAX_DEPTH} levels stand inside one another"
_NESTED_HINT = "look for a bracket that is never closed"
_RESOLVED: dict[str, str] = {}  # texts repeat a lot in a park


class _Composer(CParser):
    """libyaml's parser and composer with our tags; it calls these three methods."""

    def __init__(self, text: str) -> None:
        CParser.__init__(self, text)

    def resolve(self, kind: type[Node], value: str, implicit: tuple[bool, bool]) -> str:
        """Return the tag of a node that carries none."""
        if kind is ScalarNode:
            return resolve(value) if implicit[0] else _STR
        return _MAP if kind is MappingNode else _SEQ

    def descend_resolver(self, current_node: Node | None, current_index: object) -> None:
        """Nothing: the core schema does not look at the place."""

    def ascend_resolver(self) -> None:
        """Nothing: the core schema does not look at the place."""


class _Builder:
    """Turns nodes into values, and notes what is wrong."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._done: dict[int, object] = {}  # by node identity: an alias is the node that it names
        self._open: set[int] = set()

    def build(self, node: Node) -> object:
        """Return the value of `node`."""
        if isinstance(node, ScalarNode):
            return self._scalar(node)
        key = id(node)
        if key in self._done:
            return self._done[key]
        if key in self._open:
            self._fault(node, "an alias stands inside what it names", "write the values out")
            return None
        if len(self._open) >= MAX_DEPTH:
            self._fault(node, _NESTED, _NESTED_HINT)
            return None
        self._open.add(key)
        value = self._mapping(node) if isinstance(node, MappingNode) else self._sequence(node)
        self._open.discard(key)
        self._done[key] = value
        return value

    def _scalar(self, node: ScalarNode) -> object:
        try:
            return _value(node.tag, node.value)
        except (ValueError, KeyError):
            self._fault(node, f"tag {node.tag!r} is unknown, or does not fit {node.value!r}", "take the tag away")
            return node.value

    def _sequence(self, node: Node) -> list[object]:
        self._expect_tag(node, _SEQ)
        return [self.build(item) for item in node.value]

    def _mapping(self, node: MappingNode) -> dict[str, object]:
        self._expect_tag(node, _MAP)
        result: dict[str, object] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node)
            if key in result:
                self._fault(key_node, f"key {key!r} is there twice", "keep one of the two")
                continue
            result[key] = self.build(value_node)
        return result

    def _key(self, node: Node) -> str:
        if isinstance(node, ScalarNode) and node.tag == _STR:
            return str(node.value)
        text = str(node.value) if isinstance(node, ScalarNode) else "?"
        self._fault(node, f"key {text} must be text", "put it in quotes")
        return text

    def _expect_tag(self, node: Node, tag: str) -> None:
        if node.tag != tag:
            self._fault(node, f"tag {node.tag!r} is unknown", "take the tag away")

    def _fault(self, node: Node, message: str, hint: str) -> None:
        self._document.faults.append(Fault(self._document.file, node.start_mark.line + 1, "", message, hint))


def _value(tag: str, text: str) -> object:
    """Return the value of a scalar; KeyError for a tag that the core schema does not have."""
    if tag == _STR:
        return text
    if tag == _NULL:
        return None
    if tag == _BOOL:
        return {"true": True, "false": False}[text.lower()]
    if tag == _INT:
        return _integer(text)
    if tag == _FLOAT:
        return float(
            text.replace(".inf", "inf").replace(".Inf", "inf").replace(".INF", "inf")
            if text[-3:].lower() != "nan"
            else "nan"
        )
    raise KeyError(tag)


def _integer(text: str) -> int | float:
    if text[:2] in ("0o", "0x"):
        return int(text, 0)
    return int(text) if len(text) < 300 else float(text)  # beyond the largest double either way


def _step(node: Node | None, step: str | int) -> tuple[int, Node] | None:
    """Return the line and node of one step of a path; the line of a key's value is that of the key."""
    if isinstance(node, MappingNode):
        for key, value in node.value:
            if key.value == step:
                return key.start_mark.line + 1, value
    if isinstance(node, SequenceNode) and isinstance(step, int) and step < len(node.value):
        item = node.value[step]
        return item.start_mark.line + 1, item
    return None


def _syntax_fault(error: YAMLError, text: str, file: str) -> Fault:
    if isinstance(error, MarkedYAMLError):
        unclosed = "flow" in str(error.context) or "quoted" in str(error.context)
        mark = (error.context_mark if unclosed else None) or error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else 1
        message = ", ".join(part for part in (error.context, error.problem) if part)
        return Fault(file, line, "", f"not YAML: {message}", _syntax_hint(message, _line_text(text, line)))
    if isinstance(error, ReaderError):
        before = text.encode()[: error.position]
        return Fault(file, before.count(b"\n") + 1, "", f"not YAML: {error.reason}", "take the character away")
    return Fault(file, 1, "", f"not YAML: {error}")


def _syntax_hint(message: str, line: str) -> str:
    if line.startswith("\t") or line.lstrip(" ").startswith("\t"):
        return "indent with spaces, not tabs"
    if "cannot start any token" in message:
        return "put a text that begins with %, @, ` or a tab in quotes"
    if "mapping values are not allowed" in message:
        return "put a text that holds a colon and a space in quotes, and look at the indentation"
    if "undefined alias" in message:
        return "a text that begins with * must be in quotes"
    if "single document" in message:
        return "a park is one document: take the line --- away"
    if "flow" in message:
        return "a bracket or a comma is missing"
    if "quoted" in message:
        return "a quotation mark is missing"
    return "look at the indentation of this line and of the one before"


def _line_text(text: str, line: int) -> str:
    lines = text.splitlines()
    return lines[line - 1] if 0 < line <= len(lines) else ""


def _too_deep(text: str) -> int:
    """Return the first line whose brackets or dashes would overflow libyaml's stack, or 0."""
    depth = 0
    for bracket in _BRACKETS.finditer(text):
        depth = depth + 1 if bracket[0] in "[{" else max(0, depth - 1)
        if depth > STACK_DEPTH:
            return text.count("\n", 0, bracket.start()) + 1
    dashes = _DASHES.search(text)
    return text.count("\n", 0, dashes.start()) + 1 if dashes else 0


_BRACKETS = re.compile(r"[][{}]")
_DASHES = re.compile(rf"(?:[-?][ \t]+){{{STACK_DEPTH}}}")
