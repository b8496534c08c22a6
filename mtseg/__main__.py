"""`python -m mtseg`, and the script `mtseg`. Ctrl-C in the first moments, while Python imports, is one line too."""

import signal

from mtseg.core.signals import end_at_once, without_traceback


def main() -> None:
    without_traceback()
    before = end_at_once()
    from mtseg.cli import main as command

    signal.signal(signal.SIGINT, before)
    command()


if __name__ == "__main__":
    main()
