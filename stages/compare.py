"""`python -m stages.compare REV_A REV_B`: compare two revisions on one page. Not a stage of the pipeline.

A revision is a commit, a branch, a tag, an experiment, or `workspace` for the files as they are. About 5 s for 100
images with 80 predictions each. Expect compare/index.html: params, scores with intervals, and images.
"""

import argparse
import tempfile
from pathlib import Path

from mtseg.core.errors import run_stage
from mtseg.report import compare, data_changes


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.compare", description="Compare two revisions on one page.")
    parser.add_argument("revisions", nargs=2, metavar="REV", help="commit, branch, tag, experiment or `workspace`")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        pair = [compare.load(rev, Path(scratch) / name) for name, rev in zip("ab", arguments.revisions, strict=True)]
        changes = data_changes.rows(*(side.revision for side in pair), Path(scratch))
        for note in compare.write(Path("compare"), *pair, changes):
            print(f"note: {note}")
    print("open compare/index.html")


if __name__ == "__main__":
    run_stage(main)
