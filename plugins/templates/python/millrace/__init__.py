"""Millrace plugins in Python: the decorators `aggregation` and `transform` turn a class with a few functions into the
batch interface of wit/. Types are those of fields.py."""

from .failure import Reject

__all__ = ["Reject", "aggregation", "transform"]


def __getattr__(name):
    # each exists only in a component of its own kind
    if name == "aggregation":
        from .aggregations import aggregation

        return aggregation
    if name == "transform":
        from .transforms import transform

        return transform
    raise AttributeError(name)
