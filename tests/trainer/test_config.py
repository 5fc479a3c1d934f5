import pytest
from pydantic import ValidationError

from schemas.errors import Refused
from tests.trainer.numeric import tiny
from trainer.config import ModelConfig, parse_model_config
from trainer.presets import PRESETS, preset


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid(name):
    assert ModelConfig.model_validate(preset(name).model_dump()) == preset(name)


def test_an_unknown_preset_is_refused_with_its_neighbour():
    with pytest.raises(Refused, match="did you mean 'deepseek_v3_671b'"):
        preset("deepseek_v3_67b")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"qk_rope_head_dim": 7}, "even"),
        ({"n_group": 3}, "must divide"),
        ({"n_group": 8, "topk_group": 8}, "two experts"),
        ({"topk_group": 5}, "more than n_group"),
        ({"num_experts_per_tok": 5}, "more than the 4"),
        ({"first_k_dense_replace": 4}, "3 layers"),
        ({"yarn": {"factor": 4.0, "original_max_position_embeddings": 256}}, "leave yarn out"),
        ({"hidden_size": "64"}, "integer"),
        ({"hiden_size": 64}, "hiden_size"),
        ({"n_shared_experts": 0}, "greater than or equal to 1"),
    ],
)
def test_what_cannot_be_is_refused(changes, words):
    with pytest.raises(ValidationError, match=words):
        tiny(**changes)
    with pytest.raises(Refused, match=words) as error:
        parse_model_config({**preset("tiny").model_dump(), **changes}, "run.yaml")
    assert str(error.value).startswith("run.yaml: ")


def test_moe_layers_include_those_of_mtp():
    assert tiny().moe_layers == (1, 2, 3)
    assert tiny(num_nextn_predict_layers=0).moe_layers == (1, 2)
