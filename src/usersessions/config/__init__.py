"""The settings of the server: a JSON or TOML file, and environment variables, which win.

An app may keep the same settings among those of its framework.

1. A setting is one field of `Settings`: its name, kind, default and meaning are said there once,
   and drive the file, the environment and the help.
2. A name that is no setting is refused, and so is a value of another kind: a typo never leaves a
   check undone.
3. No value appears in an error or a `repr` of a secret.
"""

from .settings import HMAC_ALGORITHM, LOG_LEVELS, Settings
from .sources import ENVIRONMENT_PREFIX, load, of_framework

__all__ = ["ENVIRONMENT_PREFIX", "HMAC_ALGORITHM", "LOG_LEVELS", "Settings", "load", "of_framework"]
