"""Columns in Arrow's layout ↔ lists of values.

A whole column at a time, with what CPython does natively (zip, map, one decode of all the text): an interpreter runs
inside the plugin, and a statement per value costs more than all the rest.
"""

from decimal import Decimal
from itertools import accumulate, chain, pairwise

from wit_world.imports import types as wit

BITS = [tuple(bool(byte >> bit & 1) for bit in range(8)) for byte in range(256)]
LONGS = (-(1 << 63), (1 << 63) - 1)
INTS = (-(1 << 31), (1 << 31) - 1)


def read(field, column, rows):
    """The column's values by row, None where there is none."""
    if isinstance(column.data, wit.ColumnData_Missing):
        return [None] * rows
    values = READERS[type(column.data)](column.data.value, field, rows)
    if column.validity is None:
        return values
    return [value if valid else None for value, valid in zip(values, flags(column.validity))]


def flags(bitmap):
    return chain.from_iterable(map(BITS.__getitem__, bitmap))


def as_is(values, field, rows):
    return values


def booleans(bits, field, rows):
    return list(flags(bits))[:rows]


def decimals(words, field, rows):
    signed = ((low | high << 64) - (high >> 63 << 128) for low, high in zip(words[::2], words[1::2]))
    return [Decimal(value).scaleb(-field.scale) for value in signed]


def strings(column, field=None, rows=None):
    text = column.data.decode()
    if len(text) == len(column.data):
        return [text[start:end] for start, end in pairwise(column.offsets)]
    return [value.decode() for value in binaries(column)]


def binaries(column, field=None, rows=None):
    data = column.data
    return [data[start:end] for start, end in pairwise(column.offsets)]


def dictionary(column, field, rows):
    return list(map(strings(column.values).__getitem__, column.keys))


def lists(offsets, elements):
    return [elements[start:end] for start, end in pairwise(offsets)]


READERS = {
    wit.ColumnData_Boolean: booleans, wit.ColumnData_Int32: as_is, wit.ColumnData_Int64: as_is,
    wit.ColumnData_Float32: as_is, wit.ColumnData_Float64: as_is, wit.ColumnData_Decimal: decimals,
    wit.ColumnData_Date: as_is, wit.ColumnData_Timestamp: as_is, wit.ColumnData_Timestamptz: as_is,
    wit.ColumnData_Utf8: strings, wit.ColumnData_Utf8Dictionary: dictionary, wit.ColumnData_Binary: binaries,
    wit.ColumnData_ListInt64: lambda column, field, rows: lists(column.offsets, column.values),
    wit.ColumnData_ListFloat64: lambda column, field, rows: lists(column.offsets, column.values),
    wit.ColumnData_ListUtf8: lambda column, field, rows: lists(column.offsets, strings(column.values)),
}


def write(field, values):
    """Values by row → a column. A value that the declared type does not hold is an error that names it."""
    make, types, nothing = WRITERS[field.kind]
    validity = None
    if None in values:
        if not field.nullable:
            raise TypeError(f'`{field.name}` is None; if it may be, declare it "{field.text}?"')
        validity = bits([value is not None for value in values])
        values = [nothing if value is None else value for value in values]
    check(field, values, types)
    return wit.Column(make(values, field), validity)


def check(field, values, types):
    if not set(map(type, values)) <= types:
        wrong(field, next(value for value in values if type(value) not in types))


def wrong(field, value):
    raise TypeError(f"`{field.name}` is {value!r}, which is no {field.text}")


def bits(values):
    digits = "".join(["1" if value else "0" for value in reversed(values)])
    return int(digits or "0", 2).to_bytes((len(values) + 7) // 8, "little")


def integers(case, bounds):
    def make(values, field):
        return case(within(values, field, bounds))

    return make


def within(values, field, bounds):
    low, high = bounds
    if values and not low <= min(values) <= max(values) <= high:
        wrong(field, next(value for value in values if not low <= value <= high))
    return values


def floats(case):
    return lambda values, field: case(list(map(float, values)))


def write_decimals(values, field):
    words = []
    for value in values:
        scaled = value.scaleb(field.scale)
        unscaled = int(scaled)
        if unscaled != scaled:
            wrong(field, value)
        words += (unscaled & (1 << 64) - 1, unscaled >> 64 & (1 << 64) - 1)
    return wit.ColumnData_Decimal(words)


def var_bytes(values):
    return wit.VarBytes(offsets(values), b"".join(values))


def text(values):
    joined = "".join(values)
    data = joined.encode()
    if len(data) == len(joined):
        return wit.VarBytes(offsets(values), data)
    return var_bytes([value.encode() for value in values])


def offsets(values):
    return list(accumulate(map(len, values), initial=0))


def flat(field, values, types):
    elements = list(chain.from_iterable(values))
    check(field, elements, types)
    return elements


def write_longs(values, field):
    elements = within(flat(field, values, {int}), field, LONGS)
    return wit.ColumnData_ListInt64(wit.ListInt64Data(offsets(values), elements))


def write_doubles(values, field):
    elements = list(map(float, flat(field, values, {int, float})))
    return wit.ColumnData_ListFloat64(wit.ListFloat64Data(offsets(values), elements))


def write_texts(values, field):
    return wit.ColumnData_ListUtf8(wit.ListUtf8Data(offsets(values), text(flat(field, values, {str}))))


# kind → (values → column, the Python types that it takes, what stands under a null)
WRITERS = {
    "boolean": (lambda values, field: wit.ColumnData_Boolean(bits(values)), {bool}, False),
    "int": (integers(wit.ColumnData_Int32, INTS), {int}, 0),
    "long": (integers(wit.ColumnData_Int64, LONGS), {int}, 0),
    "date": (integers(wit.ColumnData_Date, INTS), {int}, 0),
    "timestamp": (integers(wit.ColumnData_Timestamp, LONGS), {int}, 0),
    "timestamptz": (integers(wit.ColumnData_Timestamptz, LONGS), {int}, 0),
    "float": (floats(wit.ColumnData_Float32), {int, float}, 0.0),
    "double": (floats(wit.ColumnData_Float64), {int, float}, 0.0),
    "decimal": (write_decimals, {Decimal}, Decimal(0)),
    "string": (lambda values, field: wit.ColumnData_Utf8(text(values)), {str}, ""),
    "binary": (lambda values, field: wit.ColumnData_Binary(var_bytes(values)), {bytes}, b""),
    "list<long>": (write_longs, {list}, []),
    "list<double>": (write_doubles, {list}, []),
    "list<string>": (write_texts, {list}, []),
}
