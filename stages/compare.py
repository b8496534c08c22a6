"""`python -m stages.compare [A [B]]`: compare two revisions on one page. Not a stage of the pipeline.

A revision is a commit, a branch, a tag, an experiment, or `workspace` for the files as they are. As in `dvc metrics
diff`, A is HEAD and B the workspace unless they are given. About 5 s for 100
images with 80 predictions each. Expect compare/index.html: params, scores with intervals, and images.
"""

import argparse
import tempfile
from pathlib import Path

from mtseg.core.signals import run_stage
from mtseg.report import compare, data_changes


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.compare", description="Compare two revisions on one page.")
    for name, default in (("a", "HEAD"), ("b", "workspace")):
        revision = f"commit, branch, tag, experiment or `workspace`, by default {default}"
        parser.add_argument(name, nargs="?", default=default, metavar=name.upper(), help=revision)
    revisions = vars(parser.parse_args())
    with tempfile.TemporaryDirectory() as scratch:
        pair = [compare.load(revision, Path(scratch) / name) for name, revision in revisions.items()]
        changes = data_changes.rows(*(side.revision for side in pair), Path(scratch))
        for note in compare.write(Path("compare"), *pair, changes):
            print(f"note: {note}")
    print("open compare/index.html")


if __name__ == "__main__":
    run_stage(main)
