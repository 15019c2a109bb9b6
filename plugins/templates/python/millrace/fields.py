"""Types as the pipeline file writes them ("long", "double?", "decimal(10,2)"), and what they are at the boundary.

| type                         | in Python                            |
|------------------------------|--------------------------------------|
| int, long                    | int                                  |
| float, double                | float                                |
| timestamp, timestamptz       | int: microseconds since 1970         |
| date                         | int: days since 1970                 |
| decimal(p,s)                 | decimal.Decimal                      |
| boolean, string, binary      | bool, str, bytes                     |
| list<long|double|string>     | list                                 |
| distinct<long|string>        | set (state only)                     |

A "?" at the end: may be None.
"""

import re
from decimal import Decimal

from wit_world.imports import types as wit

PLAIN = {
    "boolean": wit.DataType_Boolean, "int": wit.DataType_Int32, "long": wit.DataType_Int64,
    "float": wit.DataType_Float32, "double": wit.DataType_Float64, "date": wit.DataType_Date,
    "timestamp": wit.DataType_Timestamp, "timestamptz": wit.DataType_Timestamptz,
    "string": wit.DataType_Utf8, "binary": wit.DataType_Binary,
    "list<long>": wit.DataType_ListInt64, "list<double>": wit.DataType_ListFloat64,
    "list<string>": wit.DataType_ListUtf8,
}
DISTINCT = {"distinct<long>": "list<long>?", "distinct<string>": "list<string>?"}
ZEROS = {
    "boolean": bool, "string": str, "binary": bytes, "float": float, "double": float,
    "list<long>": list, "list<double>": list, "list<string>": list, "decimal": Decimal,
}


class Field:
    """One column: its name, its type in our words, and the WIT interface's field."""

    def __init__(self, name, text, optional=False):
        self.name, self.text, self.optional = name, text, optional
        self.nullable = text.endswith("?")
        self.kind = text.removesuffix("?")
        self.scale = 0
        decimal = re.fullmatch(r"decimal\((\d+), *(\d+)\)", self.kind)
        if decimal:
            self.kind, self.scale = "decimal", int(decimal[2])
            self.data_type = wit.DataType_Decimal(wit.DecimalType(int(decimal[1]), self.scale))
        elif self.kind in PLAIN:
            self.data_type = PLAIN[self.kind]()
        else:
            known = ", ".join([*PLAIN, "decimal(p,s)"])
            raise TypeError(f'`{name}`: no type "{text}"; there are {known}, each with ? if it may be None')
        if optional and not self.nullable:
            raise TypeError(f'`{name}` may be missing, so its type is "{text}?"')

    def wit(self):
        return wit.Field(self.name, self.data_type, self.nullable)

    def wanted(self):
        """Texts are asked for as a dictionary: the host finds out natively which are the same, and each is made here
        once."""
        encoding = wit.Encoding.DICTIONARY if self.kind == "string" else wit.Encoding.PLAIN
        return wit.Wanted(self.wit(), encoding, self.optional)

    def zero(self):
        """The value of a field that nothing was put into."""
        if self.nullable:
            return None
        return ZEROS.get(self.kind, int)()


class Distinct:
    """A set in a state: a list of its values, and the column in which the Rust SDK keeps an estimate (null here)."""

    def __init__(self, name, kind):
        self.name = name
        self.values = Field(f"{name}.values", DISTINCT[kind])
        self.sketch = Field(f"{name}.sketch", "binary?")

    def zero(self):
        return set()


def fields(declared):
    """{"name": "type"} → fields."""
    return [Field(name, text) for name, text in declared.items()]


def state_fields(declared):
    """The same for a state, which may hold sets."""
    return [Distinct(name, text) if text in DISTINCT else Field(name, text) for name, text in declared.items()]


def wanted(declared):
    """{"name?": "type"}: a column with ? after its name may be missing, and is None then."""
    return [Field(name.removesuffix("?"), text, name.endswith("?")) for name, text in declared.items()]
