import json

import pandas as pd
import pytest
import torch

from benchmarks import ranks
from mtseg.model import weights


def test_the_largest_difference_of_a_weight_and_the_share_of_a_loss(tmp_path):
    for name, values, losses in (("one", [1.0, 2.0], [10, 4]), ("two", [1.0, 2.5], [11, 4])):
        (tmp_path / name / "models").mkdir(parents=True)
        (tmp_path / name / "plots").mkdir()
        state = {"a": torch.tensor(values), "b": torch.zeros(1)}
        weights.write(tmp_path / name / "models/last.safetensors", state, json.dumps({}))
        pd.DataFrame({"loss": losses}).to_csv(tmp_path / name / "plots/train.tsv", sep="\t", index=False)
    assert ranks.differences(tmp_path / "one", tmp_path / "two") == (0.5, pytest.approx(0.1))


def test_the_network_is_tiny_and_a_step_has_8_images(tmp_path):
    given = ranks.params(tmp_path)
    assert given.model.freeze_norm and given.model.num_queries == 6
    assert given.solver.ims_per_batch * given.solver.accumulate == 8
