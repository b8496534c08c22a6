import pytest

from mtseg.core import launcher
from mtseg.core.errors import UserError

COMPLETE = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "node0", "MASTER_PORT": "29500"}


@pytest.fixture
def environ(monkeypatch):
    for name in (*launcher.NEEDED, "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)

    def give(**given):
        for name, value in given.items():
            monkeypatch.setenv(name, value)

    return give


def test_a_process_knows_its_place_from_any_launcher(environ):
    assert launcher.place() == (0, 1) and not launcher.started(8)
    environ(**COMPLETE)
    assert launcher.place() == (1, 2) and launcher.started(1)
    assert launcher.started(2), "srun or mpirun may start them"
    environ(TORCHELASTIC_RUN_ID="none")
    assert launcher.started(8)


@pytest.mark.parametrize(
    ("changed", "shown"),
    [
        ({"RANK": ""}, "RANK not set"),
        ({"MASTER_ADDR": ""}, "MASTER_ADDR not set"),
        ({"MASTER_PORT": "tcp"}, "MASTER_PORT 'tcp'"),
        ({"RANK": "2"}, "RANK '2', WORLD_SIZE '2'"),
        ({"WORLD_SIZE": ""}, "RANK '1', WORLD_SIZE not set"),
    ],
)
def test_half_a_launcher_is_one_line(environ, changed, shown):
    environ(**COMPLETE | changed)
    with pytest.raises(
        UserError, match=f"which of several processes this is .*{shown}.*: expected RANK from 0 .*torchrun"
    ):
        launcher.place()


def test_variables_of_each_machine_are_not_taken_for_torchruns(environ):
    """As an operator of a cluster sets them, which leaves the processes of a machine to torchrun."""
    environ(**COMPLETE)
    with pytest.raises(
        UserError, match="RANK '1' is set, but not by torchrun, and launch asks for 16 processes: start"
    ):
        launcher.started(16)
