"""Who is who, from the environments of three kinds of job."""

from __future__ import annotations

import json

import pytest

from schemas.errors import Refused
from trainer.mesh.place import Place, place_of


def tf_config(index: int, addresses: list[str]) -> dict[str, str]:
    return {"TF_CONFIG": json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}})}


SLURM = {
    "SLURM_PROCID": "3",
    "SLURM_NTASKS": "5",
    "SLURM_STEP_NODELIST": "gpu[09-10],login",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2),1",
}
POD = {"JOB_COMPLETION_INDEX": "2", "HOSTNAME": "my-run-2"}


def test_one_process_needs_nothing() -> None:
    for environ in ({}, {"TF_CONFIG": ""}, {"TF_CONFIG": "{}"}, {"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, POD):
        assert place_of(environ, 1) == Place(0, ())


def test_tf_config_is_taken_first() -> None:
    assert place_of({**SLURM, **tf_config(1, ["a:1", "b:2"])}, 2) == Place(1, ("a:1", "b:2"))


def test_slurm_lists_are_written_out_and_tasks_of_a_node_have_ports_of_their_own() -> None:
    found = place_of(SLURM, 5, port=7000)
    assert found == Place(3, ("gpu09:7000", "gpu09:7001", "gpu10:7000", "gpu10:7001", "login:7000"))
    more = {**SLURM, "SLURM_STEP_NODELIST": "n[1-2,008]-ib,m", "SLURM_STEP_TASKS_PER_NODE": "1(x3),2"}
    assert [address.split(":")[0] for address in place_of(more, 5).addresses] == ["n1-ib", "n2-ib", "n008-ib", "m", "m"]


def test_pods_of_an_indexed_job_find_each_other_through_the_service() -> None:
    assert place_of(POD, 3, 22) == Place(2, ("my-run-0.my-run:22", "my-run-1.my-run:22", "my-run-2.my-run:22"))
    assert place_of({**POD, "TOKENMILL_SERVICE": "s"}, 3, 22).addresses[0] == "my-run-0.s:22"


@pytest.mark.parametrize(
    ("environ", "processes", "says"),
    [
        ({}, 2, "2 processes, but the environment"),
        (tf_config(0, ["a:1", "b:2"]), 4, "4 processes, but TF_CONFIG says 2"),
        (tf_config(0, ["a:1", "b:2"]), 1, "1 processes, but TF_CONFIG says 2"),
        (tf_config(2, ["a:1", "b:2"]), 2, "rank 2; ranks are 0 to 1"),
        ({"TF_CONFIG": "{broken"}, 2, "TF_CONFIG: cannot be read"),
        ({"TF_CONFIG": '{"cluster": {"worker": ["a:1"]}}'}, 1, "KeyError: 'type'"),
        ({"TF_CONFIG": '{"cluster": {"ps": ["a:1"]}, "task": {"type": "ps", "index": 0}}'}, 1, "the jobs ps"),
        (SLURM, 4, "4 processes, but Slurm's SLURM_NTASKS says 5"),
        ({**SLURM, "SLURM_NTASKS": "6"}, 6, "5 in all"),
        ({**SLURM, "SLURM_DISTRIBUTION": "cyclic"}, 5, "--distribution=block"),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "2"}, 2, "SLURM_STEP_NODELIST is not set"),
        ({"JOB_COMPLETION_INDEX": "2", "HOSTNAME": "pod"}, 3, "does not end in the pod's index -2"),
        ({"JOB_COMPLETION_INDEX": "3", "HOSTNAME": "run-3"}, 3, "rank 3; ranks are 0 to 2"),
    ],
)
def test_what_does_not_fit_is_refused(environ: dict[str, str], processes: int, says: str) -> None:
    with pytest.raises(Refused, match=says.replace("(", r"\(")):
        place_of(environ, processes)
