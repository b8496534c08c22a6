"""`python -m benchmarks.faults [--quick] [--only REGEX]`: are injected faults found, when, and with the correct cause?

Each case draws a small data set, puts one fault into data, params or code, and runs the stages until one reports
something. On the healthy cases nothing may be reported. An hour on two cores; --quick, half a minute, without
the faults that need a trained model. Prints a table, which the full run also writes into docs/diagnosis.md, and the
share of correctly named faults. The exit code is 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from pathlib import Path

from ablations import page
from benchmarks import temporary
from benchmarks.faults import runs
from benchmarks.faults.case import ROOT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a selection that needs no trained model")
    parser.add_argument("--only", default="", metavar="REGEX", help="only the cases whose name matches")
    arguments = parser.parse_args()
    names = [runs.SHORT, *runs.QUICK] if arguments.quick else list(runs.CASES)
    names = [name for name in names if re.search(arguments.only, name)]
    with tempfile.TemporaryDirectory(dir=temporary.parent()) as folder:
        outcomes = runs.run_all(names, Path(folder), quick=arguments.quick)
    table = runs.table(outcomes)
    print(table)
    if not arguments.quick and not arguments.only:
        page.write(ROOT / "docs/diagnosis.md", {"faults": table})
    good, line = runs.verdict(outcomes)
    print(line)
    sys.exit(not good)


if __name__ == "__main__":
    main()
