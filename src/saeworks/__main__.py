"""`python -m saeworks`."""

import sys

from saeworks.cli.main import main

sys.exit(main())
