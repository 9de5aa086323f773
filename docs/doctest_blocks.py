"""Show the examples in docstrings as code: a doctest is fenced before Markdown reads it."""

from __future__ import annotations

import re
from typing import Any

import griffe

# A doctest lasts, as for Python itself, from its first prompt to the next empty line.
_DOCTEST = re.compile(r"^( *)>>> .*(?:\n.*\S.*)*", re.MULTILINE)


class DoctestBlocks(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **_kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = _DOCTEST.sub(r"\1```pycon\n\g<0>\n\1```", obj.docstring.value)
