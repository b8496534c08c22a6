"""`python -m stages.convert`: raw annotations to COCO plus labels, data/coco.

About 5 s of processor time for 900 images. Expect {train,val}.parquet, the tables that the next stages read, and
for other tools {train,val}.json; report.json counts what was left out. Bad records stop it, all of them listed.
"""

from pathlib import Path

from mtseg.core.params import load
from mtseg.core.signals import run_stage
from mtseg.data.convert import convert


def main() -> None:
    params = load()
    data = params.data
    convert(data, params.tasks, Path("data/coco"), seed=data.seed)


if __name__ == "__main__":
    run_stage(main, help=__doc__)
