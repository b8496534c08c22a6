"""The scripts of the pipeline. Each imports what it needs when it runs; Ctrl-C in the first moments, while Python
imports, is one line too."""

import _signal  # of which `signal` is made, whose import takes 4 ms
import sys

if sys.argv[0] == "-m":  # this process is a stage
    before = _signal.pthread_sigmask(_signal.SIG_BLOCK, {_signal.SIGINT})  # it waits for the end of this import
    try:
        from mtseg.core.signals import imports_end_at_once, without_traceback

        imports_end_at_once()
        without_traceback()
    finally:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, before)
