"""What a Python text function reaches of Shunt: `import shunt`.

Everything here is refused unless the function was granted it, and while the text outside the handler runs.
"""

import json

from componentize_py_types import Err
from wit_world.imports import events as _events
from wit_world.imports import log as _log
from wit_world.imports import state as _state

__all__ = ["Conflict", "Denied", "Entry", "Error", "TooLarge", "log", "publish", "state"]


class Error(Exception):
    """What was wanted cannot be done now."""


class Denied(Error):
    """The function was not granted this."""


class Conflict(Error):
    """The value has another tag than the one given."""


class TooLarge(Error):
    """A key or a value too large, or the bucket is full."""


class Entry:
    """A value of the bucket, and the tag that changes with it."""

    __slots__ = ("etag", "value")

    def __init__(self, value, etag):
        self.value = value
        self.etag = etag

    def __repr__(self):
        return f"Entry(value={self.value!r}, etag={self.etag!r})"


# The interpreter sets this while the handler runs.
_handling = False

_LEVELS = {"debug": 0, "info": 1, "warn": 2, "warning": 2, "error": 3}


def text_or_bytes(data):
    """The text, where the bytes are UTF-8."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data


def as_bytes(value):
    """What is sent for a value: bytes as they are, text as UTF-8, anything else as JSON."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    if isinstance(value, str):
        return value.encode("utf-8")
    return json.dumps(value).encode("utf-8")


def _reached(call, *arguments):
    if not _handling:
        raise Error("state and events are there only while handle runs, not while the file is read")
    try:
        return call(*arguments)
    except Err as error:
        raise _translated(error.value) from None


def _translated(error):
    text = getattr(error, "value", "")
    kind = type(error).__name__.rpartition("_")[2]
    if kind == "Denied":
        return Denied(text)
    if kind == "Conflict":
        return Conflict("the value has another etag")
    if kind == "TooLarge":
        return TooLarge(text)
    return Error(text)


class _State:
    """The granted bucket. Each of these is atomic."""

    def get(self, key, default=None):
        """The value: str where it is UTF-8, else bytes; `default` where there is none."""
        entry = self.entry(key)
        return default if entry is None else entry.value

    def entry(self, key):
        """The value with its tag, or None."""
        found = _reached(_state.get, key)
        return None if found is None else Entry(text_or_bytes(bytes(found.value)), found.etag)

    def set(self, key, value, etag=None):
        """Sets str, bytes, or anything else as JSON, and gives the new tag.

        With `etag`: only where the value has it, else raises Conflict; with "": only where there is none yet.
        """
        return _reached(_state.set, key, as_bytes(value), etag)

    def delete(self, key, etag=None):
        """Whether there was one."""
        return _reached(_state.delete, key, etag)

    def keys(self, prefix="", after=None):
        """The keys that begin so, in order, at most 1,000, from after the one given."""
        return _reached(_state.keys, prefix, after)


state = _State()


def publish(topic, data, content_type=None):
    """Publishes an event: bytes, str, or anything else as JSON."""
    if content_type is None:
        if isinstance(data, (bytes, bytearray, memoryview)):
            content_type = "application/octet-stream"
        elif isinstance(data, str):
            content_type = "text/plain; charset=utf-8"
        else:
            content_type = "application/json"
    _reached(_events.publish, topic, content_type, as_bytes(data))


def log(level, message):
    """One line for the function's log; level is "debug", "info", "warn" or "error"."""
    if level not in _LEVELS:
        raise ValueError(f"level is one of debug, info, warn, error, not {level!r}")
    _log.log(_log.Level(_LEVELS[level]), str(message))
