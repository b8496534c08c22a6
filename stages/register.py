"""`python -m stages.register`: write data/manifest.json: contents of the data set and hashes of its files.

Registers the splits in detectron2's catalogs, loads them back and compares counts: a check that other tools built on
detectron2 will work on data/coco. About 6 s, most of it the import of detectron2. Expect a table of labels and sizes.
"""

from pathlib import Path

from mtseg.core.files import write_json
from mtseg.core.params import load
from mtseg.core.signals import run_stage
from mtseg.data import manifest


def main() -> None:
    params = load()
    root = params.data.raw
    built = manifest.build(Path("data/coco"))
    from mtseg.data import catalog  # imports detectron2, in seconds: after what fails at once

    catalog.check(manifest.Manifest.of(built), root)
    write_json(Path("data/manifest.json"), built)
    print(manifest.table(built))


if __name__ == "__main__":
    run_stage(main, help=__doc__)
