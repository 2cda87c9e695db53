# SPDX-License-Identifier: Apache-2.0
"""An IPython extension: what Python's kernel shows besides what IPython shows by itself.

    a figure      its data (mime type e2b/chart), as e2b_charts finds it
    a table       its columns (e2b/data)
    list, dict    JSON
    an image      that is saved to a path is shown as well

`warm` imports what most code imports: a sandbox's kernel comes out of a snapshot, where that is done.
"""

import contextlib
import functools
import importlib
import os
import sys

import orjson
from IPython.core.formatters import BaseFormatter
from IPython.display import display
from traitlets import ObjectName, Unicode

_before = {}


def load_ipython_extension(shell):
    formatters = shell.display_formatter.formatters
    for formatter in (DataFormatter(parent=shell.display_formatter), ChartFormatter(parent=shell.display_formatter)):
        formatters[formatter.format_type] = formatter
    # As methods, because the inline backend of matplotlib removes every formatter for figures.
    with contextlib.suppress(ImportError):
        importlib.import_module("pandas").DataFrame._repr_e2b_data_ = columns
    with contextlib.suppress(ImportError):
        importlib.import_module("matplotlib.figure").Figure._repr_e2b_chart_ = chart
    for kind in (list, dict):
        formatters["application/json"].for_type(kind, as_json)
    show_saved_images()
    shell.colors = "NoColor"


class DataFormatter(BaseFormatter):
    format_type = Unicode("e2b/data")
    print_method = ObjectName("_repr_e2b_data_")
    _return_type = dict


class ChartFormatter(BaseFormatter):
    format_type = Unicode("e2b/chart")
    print_method = ObjectName("_repr_e2b_chart_")
    _return_type = dict


def columns(frame):
    return plain(frame.to_dict("list"))


def chart(figure):
    from e2b_charts import chart_figure_to_dict

    return plain(chart_figure_to_dict(figure))


def as_json(value):
    """None, so that nothing is shown as JSON, for what is not."""
    try:
        return plain(value)
    except (TypeError, ValueError):
        return None


def plain(value):
    """Numbers, dates and arrays of numpy and pandas as JSON has them."""
    options = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
    return orjson.loads(orjson.dumps(value, default=_plain, option=options))


def _plain(value):
    for method in ("isoformat", "tolist", "item"):
        if found := getattr(value, method, None):
            return found()
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    return str(value)


def show_saved_images():
    """Makes `image.save(path)` of Pillow show the image, where there is Pillow."""
    try:
        from PIL import Image
    except ImportError:
        return
    save = Image.Image.save

    @functools.wraps(save)
    def save_and_show(image, fp, *args, **kwargs):
        saved = save(image, fp, *args, **kwargs)
        caller = sys._getframe(1).f_globals.get("__name__", "")
        # Matplotlib saves figures through Pillow, and shows them itself.
        if isinstance(fp, (str, os.PathLike)) and not caller.startswith("matplotlib"):
            display(image)
        return saved

    Image.Image.save = save_and_show


def warm():
    """The modules stay loaded; none of their names is put before the user."""
    for name in ("numpy", "pandas", "matplotlib.pyplot", "e2b_charts", "requests"):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def environment(values):
    """Sets variables; None brings back what was before they were set."""
    for name, value in values.items():
        if value is not None:
            _before.setdefault(name, os.environ.get(name))
            os.environ[name] = value
        elif (old := _before.pop(name, None)) is not None:
            os.environ[name] = old
        else:
            os.environ.pop(name, None)
