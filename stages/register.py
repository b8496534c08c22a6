"""`python -m stages.register`: what the data set holds, and the hashes of its files, to data/manifest.json.

About 1 s. Expect a table of labels and sizes.
"""

from pathlib import Path

from mtseg.core.errors import run_stage
from mtseg.core.files import write_json
from mtseg.core.params import load
from mtseg.data import manifest


def main() -> None:
    load()  # nothing of it is used here, but a slip in params.yaml must stop every stage
    built = manifest.build(Path("data/coco"))
    write_json(Path("data/manifest.json"), built)
    print(manifest.table(built))


if __name__ == "__main__":
    run_stage(main)
