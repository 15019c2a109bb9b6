"""What aggregations and transforms have in common."""

from .columns import write

published = []


def publish(plugin):
    """Makes `plugin` what the component exports: a class, of which there is a new object for every call, so that nothing
    can be kept in it."""
    if published:
        raise TypeError("a module holds one plugin, and this is the second one")
    functions = {name: staticmethod(getattr(plugin, name)) for name in dir(plugin) if not name.startswith("_")}
    published.append(type(type(plugin).__name__, (), functions))


def parameters_fit(function, columns):
    """Values are passed by position, so the names are compared once, here."""
    code = function.__code__
    given, declared = code.co_varnames[1 : code.co_argcount], tuple(field.name for field in columns)
    if given != declared:
        names = ", ".join(("self", *declared))
        raise TypeError(f"`{function.__qualname__}` takes the input's columns in their order: ({names})")


class Gathered:
    """Results of one kind, by column."""

    def __init__(self, fields):
        self.fields = fields
        self.rows = []

    def add(self, result):
        """Takes nothing (None), a row (a dict), or a list of rows; says how many."""
        if result is None:
            return 0
        if type(result) is list:
            self.rows += result
            return len(result)
        self.rows.append(result)
        return 1

    def written(self):
        return [write(field, [row.get(field.name) for row in self.rows]) for field in self.fields]
