"""`python -m stages.generate`: draw the embedded data set, data/raw/shapes.

About 20 s of processor time for 900 images on a slow core. Expect train/ and val/, each image a .jpg with its LabelMe
.json beside it.
"""

from pathlib import Path

from mtseg.core.params import load
from mtseg.core.signals import run_stage
from mtseg.data.shapes import generate


def main() -> None:
    params = load()
    settings = params.generate
    generate(settings, Path("data/raw/shapes"), seed=settings.seed)


if __name__ == "__main__":
    run_stage(main, help=__doc__)
