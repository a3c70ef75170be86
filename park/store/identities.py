"""As whom PostgreSQL runs, which refuses to run as root.

As root it is started in a user namespace of its own, where root is seen as an ordinary user and nothing changes
outside; where namespaces are barred (many containers), as the user ``nobody`` or as the owner of existing data, if need
be with the one capability to pass folders that only root may. Not here: how a process takes on an identity
(`park.child_process`). The main path enters at `identity_for`.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable, Iterator
from pathlib import Path

from park.child_process import Identity, NotStartedError
from park.errors import StoreError

_NOBODY = 65534


def identity_for(cluster: Path, works: Callable[[Identity], bool]) -> Identity:
    """Return the first identity under which the server can run and reach binaries and data.

    Parameters
    ----------
    cluster
        Its data, there or not yet.
    works
        Whether its binaries run under an identity; `NotStartedError` if nothing does.

    Raises
    ------
    StoreError
        If there is none.
    """
    candidates = list(_possible_identities(cluster))
    if candidates == [Identity()]:
        return candidates[0]
    reasons = []
    for identity in candidates:
        try:
            if works(identity):
                return identity
            reasons.append(f"{_describe(identity)}: postgres --version failed")
        except NotStartedError as error:
            reasons.append(f"{_describe(identity)}: {error}")
    raise StoreError(
        "PostgreSQL refuses to run as root, and no other way works here: "
        + "; ".join(reasons)
        + " (hint: run as an ordinary user, allow user namespaces, or name a database with --dsn)"
    )


def _possible_identities(cluster: Path) -> Iterator[Identity]:
    """Yield the ways to run PostgreSQL as this user, the least intrusive first."""
    uid = os.geteuid()
    if uid != 0:
        if not _has_name(uid):          # initdb wants a name for its user: a container run with a bare number
            yield _namespace()
        yield Identity()
        return
    owner = cluster.stat() if cluster.exists() else None
    if owner is None or owner.st_uid == 0:
        yield _namespace()
        user, group = _NOBODY, _NOBODY
    else:
        user, group = owner.st_uid, owner.st_gid
    yield Identity("user", user, group, file_access=False)
    yield Identity("user", user, group, file_access=True)


def _namespace() -> Identity:
    """Return an identity in a namespace; its user is one with a name, and not that of unmapped owners (65534)."""
    entry = min(
        (e for e in pwd.getpwall() if e.pw_uid not in (0, _NOBODY)), key=lambda e: e.pw_uid, default=None
    )
    return Identity("namespace", entry.pw_uid, entry.pw_gid) if entry else Identity("namespace", _NOBODY, _NOBODY)


def _describe(identity: Identity) -> str:
    """Return the identity in words."""
    if identity.kind == "user":
        return f"as user {identity.uid}" + (" with access to root's folders" if identity.file_access else "")
    return "in a user namespace" if identity.kind == "namespace" else "as this user"


def _has_name(uid: int) -> bool:
    """Whether the user is in the password database."""
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def give_to(identity: Identity, folder: Path) -> None:
    """Make the identity the owner of a folder of ours and of all in it, where it is not yet."""
    if os.geteuid() != 0:
        return
    uid, gid = (identity.uid, identity.gid) if identity.kind == "user" else (0, 0)
    if folder.stat().st_uid == uid:
        return
    for root, _folders, files in os.walk(folder):
        for path in (Path(root), *(Path(root, name) for name in files)):
            os.chown(path, uid, gid, follow_symlinks=False)
