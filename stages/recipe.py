"""`python -m stages.recipe RECIPE [DATA]`: write a recipe into params.yaml. Not a stage of the pipeline.

RECIPE is a name in recipes/, such as carparts, or the path of a YAML file.

Under a second. Expect the recipe's values in params.yaml, and DATA, where given, as data.raw. `git checkout
params.yaml` undoes it.
"""

import sys
from pathlib import Path

from mtseg.core.errors import UserError
from mtseg.core.recipe import apply, find
from mtseg.core.signals import run_stage


def main() -> None:
    match sys.argv[1:]:
        case [recipe]:
            apply(find(recipe), params=Path("params.yaml"))
        case [recipe, raw]:
            apply(find(recipe), params=Path("params.yaml"), raw=raw)
        case _:
            raise UserError("usage: python -m stages.recipe RECIPE [DATA]")


if __name__ == "__main__":
    run_stage(main)
