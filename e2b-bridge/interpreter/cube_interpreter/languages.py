# SPDX-License-Identifier: Apache-2.0
"""What is known of each language: its other names, its kernel, how its environment is changed."""

import dataclasses
import json
import shlex
from collections.abc import Callable


def python_environment(values):
    # Only builtins: names of the user's must not be touched.
    return f"__import__('cube_interpreter.startup').startup.environment({values!r})"


def bash_environment(values):
    return "\n".join(
        f"unset {name}" if value is None else f"export {name}={shlex.quote(value)}" for name, value in values.items()
    )


def javascript_environment(values):
    return "".join(
        f"delete process.env[{json.dumps(name)}];" if value is None
        else f"process.env[{json.dumps(name)}] = {json.dumps(value)};"
        for name, value in values.items()
    ) + "void 0"


@dataclasses.dataclass(frozen=True)
class Language:
    """`environment` makes the code that sets variables, or removes those whose value is None; `prepare` is
    run in a new kernel."""

    name: str
    kernel: str
    environment: Callable[[dict[str, str | None]], str]
    prepare: str = ""


PYTHON = Language(
    "python", "python3", python_environment,
    prepare="get_ipython().run_line_magic('load_ext', 'cube_interpreter.startup');"
    "__import__('cube_interpreter.startup').startup.warm()",
)
LANGUAGES = {
    language.name: language
    for language in (
        PYTHON,
        Language("bash", "bash", bash_environment),
        Language("javascript", "javascript", javascript_environment),
    )
}
ALIASES = {"js": "javascript", "py": "python", "python3": "python", "sh": "bash", "shell": "bash"}


class UnknownLanguage(Exception):
    """This image has no kernel for it."""

    def __init__(self, name):
        known = ", ".join(sorted(LANGUAGES))
        super().__init__(f"there is no kernel for the language {name!r} in this sandbox; there is {known}")


def find(name):
    """The language of that name in any case, Python if there is none."""
    name = (name or PYTHON.name).lower()
    try:
        return LANGUAGES[ALIASES.get(name, name)]
    except KeyError:
        raise UnknownLanguage(name) from None
