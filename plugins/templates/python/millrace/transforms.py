"""A transform by row: `process` gives a row (a dict), several (a list), or none (None)."""

from wit_world.exports import transform as interface
from wit_world.imports import types as wit

from . import config
from .columns import read, write
from .failure import Reject, guarded
from .plugin import Gathered, parameters_fit, publish
from .fields import fields, wanted


def transform(*, name, version, input, output, options={}):
    """Decorates a class with `process(self, …)`, whose parameters are the input's columns, in their order. There is one
    object of it; `self.config` has the options. Columns of the input that `output` does not have are carried along by
    the host. To refuse a row, raise a `Reject`.
    """

    def decorate(cls):
        columns, results = wanted(input), fields(output)
        parameters_fit(cls.process, columns)

        class Transform:
            @guarded
            def info(self):
                return wit.PluginInfo(name, version, config.schema(options), [])

            @guarded
            def open(self, text, offered):
                cls.config = config.parse(options, text)
                self.author = cls()
                return interface.Signature([field.wanted() for field in columns], [field.wit() for field in results])

            @guarded
            def process(self, rows, total):
                values = [read(field, column, total) for field, column in zip(columns, rows)]
                origins, rejected, gathered = [], [], Gathered(results)
                process, add = self.author.process, gathered.add
                for row, arguments in enumerate(zip(*values) if values else [()] * total):
                    try:
                        count = add(process(*arguments))
                    except Reject as reject:
                        rejected.append(wit.Rejected(row, str(reject)))
                        continue
                    origins += [row] * count
                return interface.Transformed(gathered.written(), origins, rejected)

        publish(Transform())
        return cls

    return decorate
