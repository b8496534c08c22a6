"""`python -m benchmarks.faults [--quick] [--only WORDS]`: are faults caught, when, and with the right cause?

Each fault is put into a tiny data set, params or code, and the pipeline runs from raw data to diagnosis until something
is reported; beside them run healthy cases, of which nothing may be reported. A quarter of an hour on two cores; with
--quick, 50 s and no fault that needs a trained model. Expect a table, which the whole run also writes into
docs/diagnosis.md; the last line is the share named right. Exit code 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from pathlib import Path

from ablations import page
from benchmarks.faults import runs
from benchmarks.faults.case import ROOT
from benchmarks.faults.table import table, verdict


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="some of those that need no trained model")
    parser.add_argument("--only", default="", metavar="WORDS", help="those whose name has these words, a regex")
    arguments = parser.parse_args()
    names = [runs.SHORT, *runs.QUICK] if arguments.quick else list(runs.CASES)
    names = [name for name in names if re.search(arguments.only, name)]
    with tempfile.TemporaryDirectory() as folder:
        outcomes = runs.run_all(names, Path(folder), quick=arguments.quick)
    print(table(outcomes))
    if not arguments.quick and not arguments.only:
        page.write(ROOT / "docs/diagnosis.md", {"faults": table(outcomes)})
    good, line = verdict(outcomes)
    print(line)
    sys.exit(not good)


if __name__ == "__main__":
    main()
