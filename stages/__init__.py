"""The scripts of the pipeline. Each imports what it needs when it runs; Ctrl-C in the first moments, while Python
imports, is one line too."""

from mtseg.core.signals import without_traceback

without_traceback()
