# SPDX-License-Identifier: Apache-2.0
"""The contexts: kernels by name. One for each language is there for whoever names none."""

import asyncio
import contextlib
import dataclasses
import uuid

from . import languages
from .kernel import Kernel

MOST_CONTEXTS = 64
"""Each is a process of some 60 MB."""


class NotFound(Exception):
    def __init__(self, name):
        super().__init__(f"Context {name} not found")


class TooMany(Exception):
    def __init__(self):
        super().__init__(f"there are {MOST_CONTEXTS} contexts already; delete one first")


@dataclasses.dataclass
class Context:
    id: str
    kernel: Kernel

    def described(self):
        return {"id": self.id, "language": self.kernel.language.name, "cwd": self.kernel.cwd}


class Contexts:
    def __init__(self, cwd):
        self.cwd = cwd
        self.all = {}
        self.defaults = {}
        self.making = asyncio.Lock()

    async def create(self, language, cwd=None):
        if len(self.all) >= MOST_CONTEXTS:
            raise TooMany
        context = Context(str(uuid.uuid4()), Kernel(languages.find(language), cwd or self.cwd))
        try:
            await context.kernel.start()
        except BaseException:
            await context.kernel.stop()
            raise
        self.all[context.id] = context
        return context

    async def default(self, language):
        """The one of a language, made when it is first asked for."""
        name = languages.find(language).name
        async with self.making:
            if self.defaults.get(name) not in self.all:
                self.defaults[name] = (await self.create(name)).id
        return self.all[self.defaults[name]]

    def find(self, name):
        try:
            return self.all[name]
        except KeyError:
            raise NotFound(name) from None

    async def remove(self, name):
        context = self.find(name)
        del self.all[name]
        await context.kernel.stop()

    async def close(self):
        for name in list(self.all):
            with contextlib.suppress(NotFound):
                await self.remove(name)
