"""Aggregations and transforms through the interface's functions, as the host calls them."""

import json
import unittest

from componentize_py_types import Err
from millrace import Reject, aggregation, transform
from millrace.columns import read, write
from millrace.fields import Field
from millrace.plugin import published
from wit_world.exports.aggregation import Origin, Window
from wit_world.imports import types as wit

ALL = [0, 1, 2, 3, 4, 5]


def column(text, values):
    return write(Field("x", text), values)


def made(declare):
    """What the component would export; a real one exports a class of one plugin."""
    published.clear()
    declare()
    return published[0]()


def users(config="{}", options={}, **functions):
    class Users:
        def update(self, user, points):
            if points is not None and points < 0:
                raise Reject("negative")
            self.sum += points or 0
            self.users.add(user)
            self.numbers.add(len(user))

        def merge(self, other):
            self.sum += other.sum
            self.users |= other.users
            self.numbers |= other.numbers

        def evaluate(self, window):
            return {"sum": self.sum, "users": len(self.users)}

    for name, function in functions.items():
        setattr(Users, name, function)
    plugin = made(lambda: aggregation(
        name="users", version="1.0.0", options=options, input={"user": "string", "points": "long?"},
        state={"sum": "long", "users": "distinct<string>", "numbers": "distinct<long>"},
        output={"sum": "long", "users": "long"},
    )(Users))
    plugin.open(config, [])
    return plugin


def fill(plugin, names, slots, points=None):
    rows = [column("string", names), column("long?", points or [1] * len(names))]
    return plugin.update(rows, slots, 8)


def results(plugin, slots):
    out = plugin.evaluate(slots, [Window(0, 1)] * len(slots), True)
    return [c.data.value for c in out.columns], out.groups


class Plugins(unittest.TestCase):
    def fails(self, call):
        with self.assertRaises(Err) as raised:
            call()
        return raised.exception.value

    def test_rows_go_to_their_groups_and_refused_ones_leave_no_trace(self):
        plugin = users()
        rejected = fill(plugin, ["a", "b", "a", "c"], [0, 2, 0, 2], [1, -5, 2, None])
        self.assertEqual(rejected, [wit.Rejected(1, "negative")])
        self.assertEqual(results(plugin, [2, 0, 1]), ([[0, 3, 0], [1, 1, 0]], None))

    def test_a_state_in_chunks_of_any_size_comes_back_as_it_was(self):
        names = [f"user-{i * 37 % 91}" for i in range(200)]
        plugin = users()
        fill(plugin, names, [i % 5 for i in range(200)])
        for bytes_max in (1, 50, 400, 1_000_000):
            again, cursor, chunks = users(), 0, 0
            while cursor is not None:
                chunk = plugin.state(ALL, cursor, bytes_max)
                self.assertTrue(chunk.next is None or chunk.next > cursor)
                again.merge(chunk.columns, chunk.groups, 8)
                cursor, chunks = chunk.next, chunks + 1
            self.assertEqual(chunks > 5, bytes_max < 1_000_000)
            self.assertEqual(results(again, ALL), results(plugin, ALL))
            self.assertEqual(again.state(ALL, 0, 1_000_000), plugin.state(ALL, 0, 1_000_000))

    def test_sets_are_sorted_and_their_sketch_is_null(self):
        plugin = users()
        fill(plugin, ["bb", "a", "ccc"], [0, 0, 0])
        columns = plugin.state([0], 0, 1_000).columns
        self.assertEqual(read(Field("x", "list<string>?"), columns[1], 1), [["a", "bb", "ccc"]])
        self.assertEqual(read(Field("x", "binary?"), columns[2], 1), [None])
        self.assertEqual(read(Field("x", "list<long>?"), columns[3], 1), [[1, 2, 3]])
        columns[2] = column("binary?", [b"\x01"])
        self.assertIn("`users` is an estimate", self.fails(lambda: users().merge(columns, [0], 1)).value)

    def test_combine_leaves_the_source_and_reset_leaves_nothing(self):
        plugin = users()
        fill(plugin, ["a", "b"], [0, 1])
        plugin.combine([0, 3], [1, 1])
        self.assertEqual(results(plugin, [0, 1])[0], [[1, 2], [1, 2]])
        held = plugin.size()
        plugin.reset([0, 1])
        self.assertEqual(results(plugin, [0, 1])[0], [[0, 0], [0, 0]])
        self.assertLess(plugin.size(), held)

    def test_none_one_or_several_rows_a_group(self):
        plugin = users(evaluate=lambda self, window: [{"sum": i, "users": 0} for i in range(len(self.users))])
        fill(plugin, ["a", "b", "c"], [1, 1, 2])
        self.assertEqual(results(plugin, [0, 1, 2]), ([[0, 1, 0], [0, 0, 0]], [1, 1, 2]))
        self.assertEqual(results(users(evaluate=lambda self, window: None), [0])[1], [])

    def test_an_exception_is_the_plugins_fault_and_says_where(self):
        def update(self, user, points):
            user.nothing()

        plugin = users(update=update)
        error = self.fails(lambda: fill(plugin, ["a"], [0]))
        self.assertIsInstance(error, wit.Error_Internal)
        self.assertRegex(error.value, r"^AttributeError: (?s:.*)test_plugins\.py")

    def test_parameters_are_the_inputs_columns(self):
        with self.assertRaisesRegex(TypeError, r"in their order: \(self, user, points\)"):
            users(update=lambda self, points, user: None)

    def test_only_its_own_state_schema_is_taken_over(self):
        plugin = users()
        schema, rows = plugin.open("{}", []).state, plugin.state([], 0, 10).columns
        self.assertIs(plugin.migrate(Origin("users", "0.9.0", "{}", schema), rows), rows)
        self.assertIsNone(plugin.migrate(Origin("users", "0.9.0", "{}", schema[1:]), rows))
        self.assertIsNone(plugin.migrate(Origin("users", "0.9.0", '{"other": 1}', schema), rows))

    def test_options_have_defaults_and_what_is_wrong_with_them_is_said(self):
        options = {"mode": {"enum": ["a", "b"], "default": "a"}, "size": {"type": "integer"}}
        plugin = users('{"size": 1}', options, evaluate=lambda self, window: {"sum": self.config["size"], "users": 0})
        self.assertEqual(results(plugin, [0])[0], [[1], [0]])
        for config, says in [
            ("", "option `size` is missing"),
            ('{"size": 1, "mode": "c"}', 'option `mode`: "a" or "b" is wanted, found "c"'),
            ('{"size": 1.5}', "option `size`: a whole number is wanted, found 1.5"),
            ('{"sise": 1}', "unknown option `sise`; there are: mode, size"),
            ("[]", "the configuration is a table of options, not []"),
        ]:
            with self.subTest(config):
                self.assertEqual(self.fails(lambda: plugin.open(config, [])), wit.Error_Config(says))
        self.assertEqual(json.loads(plugin.info().config_schema)["required"], ["size"])

    def test_a_transform_drops_doubles_and_refuses_rows(self):
        class Repeat:
            def process(self, n, extra):
                assert extra is None
                if n < 0:
                    raise Reject(str(n))
                return [{"n": n}] * n if n else None

        declare = transform(
            name="t", version="1.0.0", input={"n": "long", "extra?": "string?"}, output={"n": "long"}
        )
        plugin = made(lambda: declare(Repeat))
        plugin.open("{}", [])
        out = plugin.process([column("long", [1, 0, -3, 2]), wit.Column(wit.ColumnData_Missing(), None)], 4)
        self.assertEqual(out.columns[0].data.value, [1, 2, 2])
        self.assertEqual((out.origins, out.rejected), ([0, 3, 3], [wit.Rejected(2, "-3")]))


if __name__ == "__main__":
    unittest.main()
