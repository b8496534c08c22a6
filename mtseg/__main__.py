"""`python -m mtseg`, and the script `mtseg`. Ctrl-C in the first moments, while Python imports, is one line too."""

from mtseg.core.signals import imports_end_at_once, without_traceback


def main() -> None:
    imports_end_at_once()
    without_traceback()
    from mtseg.cli import main as command

    command()


if __name__ == "__main__":
    main()
