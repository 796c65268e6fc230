"""The Python interpreter of text functions: runs one text, once, in a fresh instance.

`scripts/build-interpreters` makes a component of this file and CPython. What this file has done by its end is what each
call begins with: the memory is kept as it is then, so what is imported here costs a call nothing.
"""

import gc
import inspect
import io
import json
import linecache
import random
import sys
import traceback
import types
import urllib.parse

import library
import shunt
from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.interpreter import Answer
from wit_world.imports import log as _log

TEXT = "text/plain; charset=utf-8"
JSON = "application/json"

# Modules are found among those that are kept: no call has files to find one in.
NOT_HERE = "a function has Python's standard library without threads, sockets and files, and no packages beyond it"


class Mistake(Exception):
    """What is wrong with the text, in words that need no traceback."""


class Log(io.TextIOBase):
    """Standard output and standard error: a line is a line of the function's log."""

    def __init__(self, level):
        self.level = level
        self.rest = ""
        self.quiet = False

    encoding = "utf-8"

    def writable(self):
        return True

    def write(self, text):
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if self.quiet:
            return len(text)
        *lines, self.rest = (self.rest + text).split("\n")
        for line in lines:
            _log.log(self.level, line)
        return len(text)

    def end(self):
        """What is left without a line's end is a line too."""
        rest, self.rest = self.rest, ""
        if rest and not self.quiet:
            _log.log(self.level, rest)


class Headers(dict):
    """Headers by their names, upper and lower case alike."""

    def __getitem__(self, name):
        return super().__getitem__(name.lower())

    def __contains__(self, name):
        return isinstance(name, str) and super().__contains__(name.lower())

    def get(self, name, default=None):
        return super().get(name.lower(), default)


class Event:
    """What `handle(event, context)` is called with."""

    def __init__(self, call):
        self.body = bytes(call.body)
        self.headers = Headers(call.headers)
        self.method = call.method
        self.query = dict(urllib.parse.parse_qsl(call.query, keep_blank_values=True))
        self.path = call.path


class Context:
    """Who is called, and by what."""

    def __init__(self, call):
        self.name = call.name
        self.source = call.source
        self.hostname = call.name


def load(file, source):
    """Runs the text; gives its handler."""
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    module = types.ModuleType("function")
    module.__file__ = file
    sys.modules["function"] = module
    exec(compile(source, file, "exec", dont_inherit=True), module.__dict__)
    handler = module.__dict__.get("handle")
    if handler is None:
        raise Mistake(f"{file} has no handler: it must define `def handle(req):`")
    if not callable(handler):
        raise Mistake(f"{file} has no handler: its `handle` is a {type(handler).__name__}, not a function")
    return handler


def takes_event(handler):
    """Whether it has two parameters without a default: `handle(event, context)`."""
    code = getattr(handler, "__code__", None)
    if code is not None:
        return code.co_argcount - len(handler.__defaults__ or ()) == 2
    try:
        parameters = inspect.signature(handler).parameters.values()
    except (TypeError, ValueError):
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(each.kind in positional and each.default is each.empty for each in parameters) == 2


def number(value):
    """As Python 2.7 printed it, and EdgeFaaS's functions with it: twelve digits, and always a sign of being a float."""
    text = f"{value:.12g}"
    return text if any(sign in text for sign in ".en") else text + ".0"


def content(value):
    """The content type and the bytes of an answer's body."""
    if value is None:
        return TEXT, b""
    if isinstance(value, str):
        return TEXT, value.encode("utf-8")
    if isinstance(value, (bytes, bytearray, memoryview)):
        return "", bytes(value)
    if isinstance(value, float):
        return TEXT, number(value).encode("ascii")
    if isinstance(value, int) and not isinstance(value, bool):
        return TEXT, str(value).encode("ascii")
    try:
        return JSON, json.dumps(value).encode("utf-8")
    except TypeError as error:
        raise Mistake(f"handle gave a {type(value).__name__} that cannot be sent: {error}") from None


def answer(value):
    """The answer that a handler's value stands for."""
    if not (isinstance(value, dict) and "statusCode" in value and value.keys() <= {"statusCode", "body", "headers"}):
        content_type, body = content(value)
        return Answer(200, [], content_type, body)
    status = value["statusCode"]
    if not isinstance(status, int) or not 200 <= status <= 599:
        raise Mistake(f"statusCode must be a number from 200 to 599, not {status!r}")
    content_type, body = content(value.get("body"))
    headers = []
    for name, text in dict(value.get("headers") or {}).items():
        if str(name).lower() == "content-type":
            content_type = str(text)
        else:
            headers.append((str(name), str(text)))
    return Answer(status, headers, content_type, body)


def finished(value):
    """The value of an `async def`, which has nothing to wait for here."""
    if not inspect.iscoroutine(value):
        return value
    try:
        value.send(None)
    except StopIteration as end:
        return end.value
    raise Mistake("handle waits for something that never comes: there is no event loop here")


def told(error, file):
    """An exception as Python tells it, with the lines of the text and none of ours."""
    if isinstance(error, Mistake):
        return str(error)
    first = error.__traceback__
    while first is not None and first.tb_frame.f_code.co_filename != file:
        first = first.tb_next
    lines = traceback.format_exception(type(error), error, first, limit=-20)
    if isinstance(error, ModuleNotFoundError):
        lines.append(f"({NOT_HERE})")
    return "".join(lines).rstrip("\n")


class Interpreter(exports.Interpreter):
    def check(self, file, source):
        sys.stdout.quiet = sys.stderr.quiet = True
        try:
            load(file, source)
        except BaseException as error:
            raise Err(told(error, file)) from None

    def run(self, file, source, call):
        # The generator's seed was kept with the memory: without this all calls would draw the same numbers.
        random.seed()
        try:
            handler = load(file, source)
            shunt._handling = True
            if takes_event(handler):
                value = handler(Event(call), Context(call))
            else:
                value = handler(shunt.text_or_bytes(bytes(call.body)))
            return answer(finished(value))
        except BaseException as error:
            raise Err(told(error, file)) from None
        finally:
            sys.stdout.end()
            sys.stderr.end()


def warm_up():
    """Does once what each call does, so that what Python prepares at first use is kept too."""
    source = "import json\n\ndef handle(req):\n    return sum(map(float, req.split(','))) / 3\n"
    for text in (source, source.replace("3", "0"), "def handle(req)\n    return req\n", "import nothing_here\n"):
        try:
            handler = load("warm.py", text)
            takes_event(handler)
            for value in (handler("0,1,1"), "text", b"bytes", 7, {"a": [1.5, None]}, {"statusCode": 200}):
                answer(value)
        except BaseException as error:
            told(error, "warm.py")
    linecache.cache.clear()
    sys.modules.pop("function", None)


library.keep()
warm_up()
sys.stdout = Log(_log.Level.INFO)
sys.stderr = Log(_log.Level.WARN)
sys.modules["__main__"].__dict__.setdefault("__builtins__", __builtins__)
# What is there now stays: collections of a call need not look at it, nor touch its memory.
gc.collect()
gc.freeze()
