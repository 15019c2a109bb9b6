"""An aggregation by row: an object per group, `update` for a row, `merge` for another state, `evaluate` for the result.

Slot g holds the state of group g; None: no row seen since the last reset. States leave as typed columns, a group in one
row, or in several when its sets are large; in the rows after the first, all but the sets is as in a fresh state, so that
merging puts them together again.
"""

from itertools import chain
from sys import getsizeof

from wit_world.exports import aggregation as interface
from wit_world.imports import types as wit

from . import config
from .columns import read, write
from .failure import Reject, guarded, input_error
from .plugin import Gathered, parameters_fit, publish
from .fields import Distinct, fields, state_fields, wanted

# what CPython takes, about: an object with a dict of few entries, a value in it, a short string in a set
STATE_BYTES = 200
VALUE_BYTES = 32
ENTRY_BYTES = 40


class Window:
    """The window that a result is for: microseconds, end exclusive; final: it has expired."""

    __slots__ = ("start", "end", "final")

    def __init__(self, start, end, final):
        self.start, self.end, self.final = start, end, final


def aggregation(*, name, version, input, state, output, options={}, ordered=False):
    """Decorates a class whose objects are the states of groups: they have the attributes that `state` names, zero or
    empty at first (`init(self)` may change that). `self.config` has the options.

    `update(self, …)` takes a row in; its parameters are the input's columns, in their order. It may raise a `Reject`
    before it has changed anything. `merge(self, other)` folds another state in, in any order, and a fresh one changes
    nothing. `evaluate(self, window)` gives a dict, a list of dicts, or None, and leaves the state as it is.
    """

    def decorate(cls):
        columns, parts, results = wanted(input), state_fields(state), fields(output)
        parameters_fit(cls.update, columns)
        stored = list(chain.from_iterable((p.values, p.sketch) if isinstance(p, Distinct) else (p,) for p in parts))
        schema = [field.wit() for field in stored]

        def fresh():
            made = cls()
            for part in parts:
                setattr(made, part.name, part.zero())
            if hasattr(made, "init"):
                made.init()
            return made

        class Aggregation:
            @guarded
            def info(self):
                return wit.PluginInfo(name, version, config.schema(options), [])

            @guarded
            def open(self, text, offered):
                cls.config = config.parse(options, text)
                self.slots = []
                signature = [field.wanted() for field in columns], schema, [field.wit() for field in results], ordered
                return interface.Signature(*signature)

            def _grow(self, total):
                self.slots += [None] * (total - len(self.slots))

            def _slot(self, group):
                if self.slots[group] is None:
                    self.slots[group] = fresh()
                return self.slots[group]

            def _held(self, group):
                held = self.slots[group] if group < len(self.slots) else None
                return fresh() if held is None else held

            @guarded
            def update(self, rows, groups, total):
                self._grow(total)
                for group in set(groups):
                    self._slot(group)
                values = [read(field, column, len(groups)) for field, column in zip(columns, rows)]
                states, update = map(self.slots.__getitem__, groups), cls.update
                rejected = []
                for row, arguments in enumerate(zip(states, *values)):
                    try:
                        update(*arguments)
                    except Reject as reject:
                        rejected.append(wit.Rejected(row, str(reject)))
                return rejected

            @guarded
            def combine(self, sources, targets):
                self._grow(max(chain(sources, targets), default=-1) + 1)
                for source, target in zip(sources, targets):
                    if self.slots[source] is not None:
                        self._slot(target).merge(self.slots[source])

            @guarded
            def merge(self, rows, groups, total):
                self._grow(total)
                for group, other in zip(groups, imported(rows, len(groups))):
                    if self.slots[group] is None:
                        self.slots[group] = other
                    else:
                        self.slots[group].merge(other)

            @guarded
            def state(self, groups, cursor, max_bytes):
                return exported(parts, self._held, groups, cursor, max_bytes)

            @guarded
            def evaluate(self, groups, windows, final):
                owners, gathered = [], Gathered(results)
                for group, window in zip(groups, windows):
                    state = self._held(group)
                    owners += [group] * gathered.add(state.evaluate(Window(window.start, window.end, final)))
                return interface.OutputRows(gathered.written(), None if owners == list(groups) else owners)

            @guarded
            def reset(self, groups):
                self._grow(max(groups, default=-1) + 1)
                for group in groups:
                    self.slots[group] = None

            @guarded
            def size(self):
                sets = [part.name for part in parts if isinstance(part, Distinct)]
                held = [state for state in self.slots if state is not None]
                entries = (getattr(state, name) for state in held for name in sets)
                states = len(held) * (STATE_BYTES + VALUE_BYTES * len(parts))
                return getsizeof(self.slots) + states + sum(getsizeof(s) + ENTRY_BYTES * len(s) for s in entries)

            @guarded
            def migrate(self, origin, rows):
                try:
                    same = origin.state == schema and config.parse(options, origin.config) == cls.config
                except Exception:  # another version may have had options that this one does not know
                    same = False
                return rows if same else None

        def imported(rows, count):
            """Columns → states."""
            values = []
            columns = iter([read(field, column, count) for field, column in zip(stored, rows)])
            for part in parts:
                values.append(next(columns))
                if isinstance(part, Distinct):
                    if any(sketch is not None for sketch in next(columns)):
                        text = f"`{part.name}` is an estimate (hll); this plugin keeps exact sets only"
                        raise input_error(text)
                    values[-1] = map(set, values[-1])
            for row in zip(*values):
                made = cls()
                for part, value in zip(parts, row):
                    setattr(made, part.name, value)
                yield made

        def exported(parts, state_of, groups, cursor, max_bytes):
            """A cursor: in the high half which of the groups, in the low half how many of its sets' elements are sent."""
            columns = [[] for _ in parts]
            owners, bytes_taken, empty = [], 0, fresh()
            index, skip = cursor >> 32, cursor & 0xFFFFFFFF
            while index < len(groups) and (bytes_taken < max_bytes or not owners):
                held = state_of(groups[index])
                before = taken = 0
                more = False
                for part, column in zip(parts, columns):
                    if not isinstance(part, Distinct):
                        value = getattr(held if skip == 0 else empty, part.name)
                        column.append(value)
                        bytes_taken += 8 + (len(value) if hasattr(value, "__len__") else 0)
                        continue
                    values = sorted(getattr(held, part.name))
                    start = min(max(skip - before, 0), len(values))
                    before += len(values)
                    end = start
                    while end < len(values) and not more:
                        value = values[end]
                        cost = 8 if type(value) is int else 4 + len(value)
                        more = taken > 0 and bytes_taken + cost > max_bytes
                        if not more:
                            end, taken, bytes_taken = end + 1, taken + 1, bytes_taken + cost
                    column.append(values[start:end])
                owners.append(groups[index])
                index, skip = (index, skip + taken) if more else (index + 1, 0)
            sent = []
            for part, column in zip(parts, columns):
                if isinstance(part, Distinct):
                    sent += write(part.values, column), write(part.sketch, [None] * len(column))
                else:
                    sent.append(write(part, column))
            return interface.StateChunk(sent, owners, index << 32 | skip if index < len(groups) else None)

        publish(Aggregation())
        return cls

    return decorate
