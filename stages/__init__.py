"""The scripts of the pipeline. Each imports what it needs when it runs; Ctrl-C in the first moments, while Python
imports, is one line too."""

import sys


def _report(kind, error, traceback):
    if issubclass(kind, KeyboardInterrupt):
        sys.stderr.write("error: interrupted\n")
    else:
        sys.__excepthook__(kind, error, traceback)


sys.excepthook = _report
