"""`python -m usersessions` is the command `usersessions`."""

import sys

from .cli import main

sys.exit(main())
