"""Columns against Arrow's layout, written down by hand, and back."""

import math
import unittest
from decimal import Decimal

from millrace.columns import read, write
from millrace.fields import Field, wanted
from wit_world.imports import types as wit

BIG = 1 << 64
# type, values, the column
LAYOUTS = [
    ("boolean", [True, False, True] + [False] * 5 + [True], wit.ColumnData_Boolean(bytes([0b101, 1]))),
    ("int", [1, -1, 2**31 - 1, -(2**31)], wit.ColumnData_Int32([1, -1, 2**31 - 1, -(2**31)])),
    ("long", [0, -1, 2**63 - 1, -(2**63)], wit.ColumnData_Int64([0, -1, 2**63 - 1, -(2**63)])),
    ("float", [1.5, -0.25], wit.ColumnData_Float32([1.5, -0.25])),
    ("double", [0.1, -math.inf], wit.ColumnData_Float64([0.1, -math.inf])),
    ("decimal(38,2)", [Decimal("123.45"), Decimal("-0.01"), Decimal(2**70) / 100],
     wit.ColumnData_Decimal([12345, 0, BIG - 1, BIG - 1, 0, 64])),
    ("date", [0, -1], wit.ColumnData_Date([0, -1])),
    ("timestamp", [1_700_000_000_000_000], wit.ColumnData_Timestamp([1_700_000_000_000_000])),
    ("timestamptz", [-1], wit.ColumnData_Timestamptz([-1])),
    ("string", ["ab", "", "c"], wit.ColumnData_Utf8(wit.VarBytes([0, 2, 2, 3], b"abc"))),
    ("string", ["é", "日本", "😀"], wit.ColumnData_Utf8(wit.VarBytes([0, 2, 8, 12], "é日本😀".encode()))),
    ("string", [], wit.ColumnData_Utf8(wit.VarBytes([0], b""))),
    ("binary", [b"\x01\x02", b""], wit.ColumnData_Binary(wit.VarBytes([0, 2, 2], b"\x01\x02"))),
    ("list<long>", [[1, 2], [], [3]], wit.ColumnData_ListInt64(wit.ListInt64Data([0, 2, 2, 3], [1, 2, 3]))),
    ("list<double>", [[], [0.5]], wit.ColumnData_ListFloat64(wit.ListFloat64Data([0, 0, 1], [0.5]))),
    ("list<string>", [["a", "é"], []],
     wit.ColumnData_ListUtf8(wit.ListUtf8Data([0, 2, 2], wit.VarBytes([0, 1, 3], "aé".encode())))),
]


class Columns(unittest.TestCase):
    def test_layouts_both_ways(self):
        for text, values, layout in LAYOUTS:
            with self.subTest(text, values=values):
                field = Field("x", text)
                column = write(field, values)
                self.assertEqual(column, wit.Column(layout, None))
                self.assertEqual(read(field, column, len(values)), values)

    def test_nulls_both_ways(self):
        for text, values, _ in LAYOUTS:
            with self.subTest(text, values=values):
                field = Field("x", text + "?")
                holes = [hole for value in values for hole in (None, value)]
                column = write(field, holes)
                if values:
                    valid = sum(1 << row for row in range(1, len(holes), 2))
                    self.assertEqual(column.validity, valid.to_bytes((len(holes) + 7) // 8, "little"))
                self.assertEqual(read(field, column, len(holes)), holes)

    def test_dictionary_and_missing(self):
        dictionary = wit.ColumnData_Utf8Dictionary(wit.Dictionary([1, 0, 1], wit.VarBytes([0, 1, 3], b"abc")))
        self.assertEqual(read(Field("x", "string?"), wit.Column(dictionary, b"\x05"), 3), ["bc", None, "bc"])
        self.assertEqual(read(Field("x", "long?"), wit.Column(wit.ColumnData_Missing(), None), 2), [None, None])

    def test_what_does_not_fit_is_named(self):
        for text, value, says in [
            ("long", 1.5, "`x` is 1.5, which is no long"), ("long", 2**63, "no long"), ("int", 2**31, "no int"),
            ("long", True, "no long"), ("double", "1", "`x` is '1', which is no double"), ("string", 1, "no string"),
            ("boolean", 0, "no boolean"), ("list<long>", ["a"], "no list<long>"), ("double", None, 'declare it "double?"'),
            ("decimal(4,1)", Decimal("0.25"), "no decimal"),
        ]:
            with self.subTest(text, value=value), self.assertRaises(TypeError) as raised:
                write(Field("x", text), [value])
            self.assertIn(says, str(raised.exception))

    def test_types_and_optional_columns(self):
        with self.assertRaisesRegex(TypeError, 'no type "varchar"; there are boolean, int'):
            Field("x", "varchar")
        with self.assertRaisesRegex(TypeError, r'its type is "long\?"'):
            wanted({"x?": "long"})
        [field] = wanted({"x?": "string?"})
        field_out = wit.Field("x", wit.DataType_Utf8(), True)
        self.assertEqual(field.wanted(), wit.Wanted(field_out, wit.Encoding.DICTIONARY, True))


if __name__ == "__main__":
    unittest.main()
