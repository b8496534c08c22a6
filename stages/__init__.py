"""The scripts of the pipeline. Each imports what it needs when it runs; Ctrl-C in the first moments, while Python
imports, is one line too."""

import _signal  # of which `signal` is made, whose import takes 4 ms

before = _signal.pthread_sigmask(_signal.SIG_BLOCK, {_signal.SIGINT})  # it waits for the end of this import
from mtseg.core.signals import without_traceback  # noqa: E402

without_traceback()
_signal.pthread_sigmask(_signal.SIG_SETMASK, before)
