"""The parts of Python's standard library that a function can import."""

import importlib

# Read here, because a call has no files to read them from. Without: what needs threads, sockets, processes, files or
# native code that is not there, and what only tools use.
MODULES = """
abc argparse array ast base64 binascii bisect calendar cmath codecs collections collections.abc colorsys configparser
contextlib contextvars copy copyreg csv dataclasses datetime decimal difflib enum errno fnmatch fractions functools
graphlib gzip hashlib heapq hmac html html.entities html.parser inspect io ipaddress itertools json keyword linecache
locale logging math numbers operator os os.path pathlib pickle pprint posixpath queue quopri random re reprlib secrets
shlex stat statistics string struct sys tempfile textwrap time timeit token tokenize traceback types typing unicodedata
urllib urllib.error urllib.parse uuid warnings weakref xml xml.etree xml.etree.ElementTree zlib zoneinfo
encodings.ascii encodings.cp1252 encodings.idna encodings.latin_1 encodings.utf_16 encodings.utf_16_be
encodings.utf_16_le encodings.utf_32 encodings.utf_8 encodings.utf_8_sig encodings.iso8859_15 encodings.punycode
encodings.hex_codec encodings.base64_codec
""".split()

# The ones of those that this build of CPython has not, with why.
missing = {}


def keep():
    """Imports them all."""
    for name in MODULES:
        try:
            importlib.import_module(name)
        except ImportError as error:
            missing[name] = str(error)
