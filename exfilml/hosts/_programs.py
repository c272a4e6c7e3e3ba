r"""Names of programs, made alike where hosts differ and meaning does not.

The whole path is the name: an attacker's ``svchost.exe`` is not that of
``c:\windows\system32`` (MITRE ATT&CK T1036.005, masquerading). What differs from host to
host, from user to user and from one version to the next is taken out of it:

- paths of Windows in lower case, which Windows does not tell apart, with ``\``;
- device volumes as ``c:`` where they hold Windows, its programs or its users (Security
  5156 says ``\device\harddiskvolume3\windows\…`` where Sysmon says ``C:\Windows\…``);
- folders of users: ``c:\users\*\…``, ``/home/*/…``, ``/Users/*/…``;
- numbers of versions, digits with dots between them, and GUIDs: ``*``.
"""

from __future__ import annotations

import functools
import re
from typing import Final

_WINDOWS: Final = re.compile(r"^(?:[A-Za-z]:[\\/]|\\)")
_VOLUME: Final = re.compile(
    r"^(?:\\device\\harddiskvolume[0-9]+|%systemdrive%)"
    r"(?=\\(?:windows|program files|program files \(x86\)|programdata|users)\\)"
)
# Paths that are not to be shortened, and paths of other hosts.
_PREFIX: Final = re.compile(r"^\\\?\??\\")
_SHARE: Final = re.compile(r"^\\\\(?!\?|\\|device\\)")
_USERS: Final = re.compile(r"^([a-z]:\\(?:users|documents and settings)\\)[^\\]+(?=\\)")
_HOMES: Final = re.compile(r"^(/home/|/Users/)[^/]+(?=/)")
_VERSION: Final = re.compile(r"[0-9]+(?:\.[0-9]+)+")
_GUID: Final = re.compile(r"\{?[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\}?")


@functools.lru_cache(maxsize=65536)
def program(path: str) -> str:
    r"""Return the name that a program goes under.

    >>> program(r"C:\Users\ann\AppData\Local\Temp\rclone.exe")
    'c:\\users\\*\\appdata\\local\\temp\\rclone.exe'
    >>> program("/usr/bin/python3.11")
    '/usr/bin/python*'
    """
    name = path.strip()
    if _WINDOWS.match(name):
        name = name.lower().replace("/", "\\")
        shared = _SHARE.match(name) is not None
        # Some exports double each backslash.
        name = _PREFIX.sub("", re.sub(r"\\+", r"\\", name))
        name = "\\" + name if shared else _VOLUME.sub("c:", name)
        name = _USERS.sub(r"\1*", name)
    else:
        name = _HOMES.sub(r"\1*", name)
    return _VERSION.sub("*", _GUID.sub("*", name))
