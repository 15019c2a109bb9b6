"""What schemathesis cannot make up by itself: the names that the pipeline really has, components that really are
plugins, and a folder that a savepoint may be written to. Every answer is noted in a file, for the test to count.

A case that was made to be refused is left as it was made.
"""

import hashlib
import itertools
import os
import re
import zlib

import schemathesis

PIPELINE = os.environ["FUZZ_PIPELINE"]
OPERATOR = os.environ["FUZZ_OPERATOR"]
# paths of components, by `:`
COMPONENTS = [open(path, "rb").read() for path in os.environ["FUZZ_COMPONENTS"].split(":")]
FOLDER = os.environ["FUZZ_FOLDER"]
ANSWERS = open(os.environ["FUZZ_ANSWERS"], "w", buffering=1)

NAME = re.compile(r"[A-Za-z0-9_-]+")
ABSOLUTE = re.compile(r"/[ -~]{1,200}")
folders = itertools.count()


@schemathesis.serializer("application/wasm")
def wasm(ctx, value):
    if isinstance(value, bytes):
        return value
    try:
        return str(value).encode("latin-1")
    except UnicodeEncodeError:
        return str(value).encode()


def mostly(value, real):
    """The real one, but for some that stay what they are; by its bytes, so that a seed says all."""
    return value if zlib.crc32(str(value).encode()) % 8 == 0 else real


def is_well_formed(case):
    """Each part of it, too: some cases that are well formed as a whole have a part that is not meant to be."""
    parts = case.meta.components.values() if case.meta else ()
    return bool(parts) and case.meta.generation.mode.is_positive and all(p.mode.is_positive for p in parts)


def swap(case):
    """A component, and parameters that belong together: which those are no schema says."""
    query = case.query = dict(case.query or {})
    seed = zlib.crc32(repr((case.body, sorted(query.items()))).encode())
    component = COMPONENTS[seed % len(COMPONENTS)]
    if seed // 16 % 8:
        # the document says a string: bytes would be looked at as what must be refused
        case.body = component.decode("latin-1")
        if "sha256" in query:
            query["sha256"] = hashlib.sha256(component).hexdigest()
    if seed // 128 % 4:
        # for as long as windows are ended, every other swap is refused
        query.pop("drain", None)
    if "shadow" in query:
        # another would be refused for as long
        query["shadow"] = "50ms"
    else:
        query.pop("promote_if_equal", None)
        query.pop("tolerance", None)


@schemathesis.hook
def before_call(ctx, case, kwargs):
    names = case.path_parameters or {}
    for parameter, real in (("name", PIPELINE), ("operator", OPERATOR)):
        given = names.get(parameter)
        if isinstance(given, str) and NAME.fullmatch(given):
            names[parameter] = mostly(given, real)
    if re.fullmatch(r"[0-9]+", str(names.get("id", ""))):
        names["id"] = mostly(names["id"], 1)
    if case.path.endswith("/plugin") and is_well_formed(case):
        swap(case)
    if case.path.endswith("/savepoints") and isinstance(case.body, dict):
        folder = case.body.get("folder")
        # wherever it is on this machine, it must not be written to
        if isinstance(folder, str) and ABSOLUTE.fullmatch(folder):
            case.body["folder"] = f"{FOLDER}/{next(folders)}"


@schemathesis.hook
def after_call(ctx, case, response):
    ANSWERS.write(f"{case.method} {case.path} {response.status_code}\n")
