"""The version of this library, as its clients are told it."""

__version__ = "0.1.0"
