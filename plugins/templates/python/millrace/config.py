"""Options: a JSON Schema for the host, the defaults filled in, and errors that say what is allowed."""

import json

from .failure import config_error

KINDS = {
    "string": (lambda v: isinstance(v, str), "a string"),
    "number": (lambda v: isinstance(v, (int, float)) and not isinstance(v, bool), "a number"),
    "integer": (lambda v: isinstance(v, int) and not isinstance(v, bool), "a whole number"),
    "boolean": (lambda v: isinstance(v, bool), "true or false"),
    "array": (lambda v: isinstance(v, list), "a list"),
    "object": (lambda v: isinstance(v, dict), "a table"),
}


def schema(options):
    """`options`: name → the JSON Schema of one option; one without a "default" must be given."""
    return json.dumps({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object", "properties": options,
        "required": [name for name, option in options.items() if "default" not in option],
        "additionalProperties": False,
    })


def parse(options, text):
    try:
        given = json.loads(text.strip() or "{}")
    except ValueError as e:
        raise config_error(f"the configuration is not JSON: {e}") from None
    if not isinstance(given, dict):
        raise config_error(f"the configuration is a table of options, not {json.dumps(given)}")
    for name in given:
        if name not in options:
            there = f"; there are: {', '.join(options)}" if options else ": this plugin has no options"
            raise config_error(f"unknown option `{name}`{there}")
    return {name: parse_one(name, option, given) for name, option in options.items()}


def parse_one(name, option, given):
    if name not in given and "default" not in option:
        raise config_error(f"option `{name}` is missing")
    value = given.get(name, option.get("default"))
    fits, wanted = KINDS.get(option.get("type"), (lambda v: True, ""))
    if "enum" in option:
        fits, wanted = option["enum"].__contains__, " or ".join(map(json.dumps, option["enum"]))
    if not fits(value):
        raise config_error(f"option `{name}`: {wanted} is wanted, found {json.dumps(value)}")
    return value
