"""Addresses as they may be shown: without user names, passwords, and what a query holds.

Every address that is printed, logged or recorded goes through here. A password may hold any character, `@`, `/` and
`?` too, and then no parser reads the address as its author meant it: where it is not plain where the host begins, only
the scheme is shown.
"""

import re

HIDDEN = "***"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,40}):/{2,}")
_FILE = re.compile(r"(file|sqlite(\+[a-z]+)?):/{3,}")  # no host to log in at
_PLACE = re.compile(
    r"(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?P<port>:[0-9]{1,5})?(?P<path>/[A-Za-z0-9._~%/+-]*)?"
)
_HOST = re.compile(r"[A-Za-z0-9._-]+(?=[:/]|\Z)")


def masked(address: str) -> str:
    """An address without user name, password, query and fragment; a path is returned as it is."""
    if _FILE.match(address):
        path = re.split("[?#]", address, maxsplit=1)[0]
        return path + (f"?{HIDDEN}" if path != address else "")
    start = _SCHEME.match(address)
    if not start:
        is_path = address.startswith(("/", "./", "../", "~"))
        return address if is_path or not re.search("[@:?]", address) or _PLACE.fullmatch(address) else HIDDEN
    scheme, rest = f"{start[1]}://", address[start.end() :]
    before = re.split("[?#]", rest, maxsplit=1)[0]
    behind = rest[len(before) :]
    if "@" in behind:  # of a password with a question mark, or of the query
        return scheme + HIDDEN
    _, login, place = before.rpartition("@")
    parts = _PLACE.fullmatch(place)
    if parts and int((parts["port"] or ":0")[1:]) < 65_536:
        place += f"?{HIDDEN}" if behind else ""
    else:
        host = _HOST.match(place)
        place = host[0] if host else HIDDEN
    return scheme + (f"{HIDDEN}@" if login else "") + place


def is_plain(address: str) -> bool:
    """Whether nothing of an address has to be hidden; then other people's messages may quote it."""
    return masked(address) == address
