"""Runs the commands of `test_results.py` as a user runs them, without the checks of annotations:
these double the time, and by looking into a mapping they make a sum look as if a statistic read it
(`bootstrap.estimate`), which gives intervals where there are too few documents for one.

    python golden_driver.py COMMAND …
"""

import sys

from saeworks.cli.main import main
from saeworks.measure.audit import extractor

extractor.STEPS = 10  # of the probes of u: fast, and no difference of rounding grows
for command in sys.argv[1:]:
    if code := main([*command.split(), "--json"]):
        sys.exit(code)
