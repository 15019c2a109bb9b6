"""What goes wrong, and whom it concerns: a row (Reject), the pipeline file (config), the host's data (input), or the
plugin itself (internal: the host throws the instance away and looks for the row that did it)."""

import traceback
from functools import wraps

from componentize_py_types import Err
from wit_world.imports import types as wit


class Reject(Exception):
    """Raise it in `update` or `process`: the row goes where the pipeline sends errors, with this reason."""


def config_error(text):
    return Err(wit.Error_Config(text))


def input_error(text):
    return Err(wit.Error_Input(text))


def guarded(call):
    """Every exception becomes the error that the host understands, with where it happened."""

    @wraps(call)
    def guard(*parameters):
        try:
            return call(*parameters)
        except Err:
            raise
        except MemoryError:
            raise  # ends the instance: no row is to blame
        except Exception as e:
            raise Err(wit.Error_Internal(f"{type(e).__name__}: {e}\n{traceback.format_exc()}")) from None

    return guard
