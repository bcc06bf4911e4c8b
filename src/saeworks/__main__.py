"""`python -m saeworks`."""

import sys

from saeworks.cli import main

sys.exit(main())
