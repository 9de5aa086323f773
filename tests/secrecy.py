"""Everything an exception says, wherever it keeps it."""

from __future__ import annotations


def said(error: BaseException) -> str:
    """The texts and arguments of an exception, of its notes, its causes and its contexts."""
    texts: list[str] = []
    current: BaseException | None = error
    while current is not None:
        texts += [str(current), repr(current), repr(current.args), repr(vars(current))]
        current = current.__cause__ or current.__context__
    return "\n".join(texts)
