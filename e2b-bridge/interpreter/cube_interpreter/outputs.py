# SPDX-License-Identifier: Apache-2.0
"""A kernel's messages (Jupyter's "Messaging in Jupyter", IOPub channel) -> the lines of an answer."""

import datetime

FIELDS = {
    "text/plain": "text",
    "text/html": "html",
    "text/markdown": "markdown",
    "text/latex": "latex",
    "image/svg+xml": "svg",
    "image/png": "png",
    "image/jpeg": "jpeg",
    "application/pdf": "pdf",
    "application/json": "json",
    "application/javascript": "javascript",
    "e2b/data": "data",
    "e2b/chart": "chart",
}


def line(kind, content):
    """The line for one message, as an object; None for what nobody asked about."""
    match kind:
        case "stream":
            return {"type": content["name"], "text": content["text"], "timestamp": now()}
        case "execute_input":
            return {"type": "number_of_executions", "execution_count": content["execution_count"]}
        case "execute_result":
            return result(content["data"], is_main=True)
        case "display_data":
            return result(content["data"], is_main=False)
        case "error":
            return error(content["ename"], content["evalue"], "\n".join(content["traceback"]))
    return None


def result(data, *, is_main):
    """One thing that was shown, in all the forms that it has."""
    found = {"type": "result", "is_main_result": is_main}
    extra = {}
    for mime, value in data.items():
        if field := FIELDS.get(mime):
            found[field] = unquoted(value) if field == "text" else value
        else:
            extra[mime] = value
    if extra:
        found["extra"] = extra
    return found


def unquoted(text):
    """A string is shown as what it says, not as it would be written in code."""
    for quote in "'\"":
        if len(text) > 1 and text[0] == text[-1] == quote:
            return text[1:-1]
    return text


def error(name, value, traceback=""):
    return {"type": "error", "name": name, "value": value, "traceback": traceback}


def now():
    return datetime.datetime.now(datetime.UTC).isoformat()
