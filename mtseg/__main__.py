"""`python -m mtseg`: the command `mtseg` of a checkout."""

from mtseg.cli import main

if __name__ == "__main__":
    main()
