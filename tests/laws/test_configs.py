"""Laws of Hugging Face configs: widths that a config says once are tied, and plain `from_pretrained` gives the network back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import shrinknet as sn
from shrinknet.graph.configs import axes_by_number, has_config, numbers
from shrinknet.surgery.own_config import _counts_heads, mend_config
from shrinknet.task.trees import called, same

pytest.importorskip("cpu_torchvision", reason="transformers looks for torchvision", exc_type=ImportError)
transformers = pytest.importorskip("transformers")

Made = tuple[nn.Module, dict[str, Any]]
IDS = torch.randint(3, 50, (12, 8), generator=torch.Generator().manual_seed(0))


def bert() -> Made:
    config = transformers.BertConfig(
        hidden_size=16, num_attention_heads=4, intermediate_size=24, num_hidden_layers=2, vocab_size=50
    )
    labels = torch.arange(12) % 2
    return transformers.BertForSequenceClassification(config), {"input_ids": IDS, "labels": labels}


def gpt2() -> Made:
    config = transformers.GPT2Config(
        n_embd=16, n_head=4, n_layer=2, vocab_size=50, n_positions=16, use_cache=False, bos_token_id=1, eos_token_id=1
    )
    return transformers.GPT2LMHeadModel(config), {"input_ids": IDS, "labels": IDS}


def llama() -> Made:
    config = transformers.LlamaConfig(
        hidden_size=32, num_attention_heads=8, num_key_value_heads=4, intermediate_size=24, num_hidden_layers=2,
        vocab_size=50, use_cache=False,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config), {"input_ids": IDS, "labels": IDS}


def t5() -> Made:
    config = transformers.T5Config(
        d_model=16, num_heads=4, d_kv=4, d_ff=24, num_layers=2, vocab_size=50, use_cache=False
    )
    return transformers.T5ForConditionalGeneration(config), {
        "input_ids": IDS,
        "decoder_input_ids": IDS,
        "labels": IDS,
    }


def convnext() -> Made:
    config = transformers.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, image_size=16, patch_size=2)
    images = torch.randn(12, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return transformers.ConvNextForImageClassification(config), {"pixel_values": images, "labels": torch.arange(12) % 2}


def task_of(made: Made) -> sn.Task:
    model, batch = made
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0, 0.2)  # far enough from zero for outputs to differ
    return sn.Task(model.eval(), by_token, batch)


def by_token(outputs: Any, labels: torch.Tensor) -> torch.Tensor:
    losses = functional.cross_entropy(outputs.logits.movedim(-1, 1), labels, reduction="none")
    return losses.flatten(1).mean(1) if losses.dim() > 1 else losses


def loaded(model: nn.Module, folder: Path) -> nn.Module:
    model.save_pretrained(folder)
    return type(model).from_pretrained(folder).eval()


@pytest.mark.parametrize(
    ("made", "heads"),
    [(bert, "num_attention_heads"), (gpt2, "n_head"), (llama, "num_key_value_heads"), (t5, "num_heads")],
    ids=["BERT", "GPT-2", "Llama", "T5"],
)
def test_plain_from_pretrained_gives_the_smaller_network(made: Callable[[], Made], heads: str, tmp_path: Path) -> None:
    task = task_of(made())
    keep = "model.embed_tokens" if made is llama else ()  # whose config wants a width that its heads divide
    run = sn.prune(task, "magnitude", "single-ranking", step=1000, tie="config", keep=keep)
    whole, smaller = task.model.config, run.model
    assert getattr(smaller.config, heads) < getattr(whole, heads)
    assert getattr(whole, heads) in (4, 8), "the user's own config stays as it was"
    again = loaded(smaller, tmp_path)
    with torch.no_grad():
        assert same(called(again, task.example_inputs), called(smaller, task.example_inputs))


def test_widths_in_a_list_of_a_config_are_tied_and_mended(tmp_path: Path) -> None:
    task = task_of(convnext())
    run = sn.prune(task, "magnitude", "single-ranking", [sn.RemovedFraction(0.4)], step=1000, tie="config")
    smaller = run.model
    assert smaller.config.hidden_sizes != task.model.config.hidden_sizes == [8, 16]
    with torch.no_grad():
        assert same(called(loaded(smaller, tmp_path), task.example_inputs), called(smaller, task.example_inputs))


def test_without_the_tie_the_config_is_mended_where_it_can_say_the_network_and_left_alone_where_not(caplog) -> None:
    task = task_of(bert())
    equal = sn.prune(task, "magnitude", "single-ranking", [sn.RemovedNeurons(12)], step=6, only="*intermediate.dense")
    widths = [len(equal.network.alive(group)) for group in equal.network.groups]
    assert type(equal.model) is type(task.model)
    assert equal.model.config.intermediate_size == (widths[0] if len(set(widths)) == 1 else 24)
    unequal = sn.prune(
        task, "magnitude", "single-ranking", [sn.RemovedNeurons(3)], only="bert.encoder.layer.0.intermediate.dense"
    )
    caplog.clear()
    assert unequal.model.config.intermediate_size == 24
    assert "The network's config cannot say its widths" in caplog.text


@pytest.mark.parametrize(
    ("what", "says"),
    [({"num_attention_heads": 4, "num_key_value_heads": 2}, (4, 2, 4)), ({"head_dim": 2}, (8, 4, 2))],
    ids=["heads", "their width"],
)
def test_the_config_says_heads_where_heads_went_and_their_width_where_that_went(what, says) -> None:
    """Half the heads, or heads of half the width: both make weights of these shapes, one of them these outputs."""
    model, batch = llama()
    half = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**model.config.to_dict(), **what})).eval()
    half.config = type(half.config)(**model.config.to_dict())  # as a cut copy has it
    assert mend_config(model.eval(), half, batch["input_ids"])
    assert (half.config.num_attention_heads, half.config.num_key_value_heads, half.config.head_dim) == says


def test_a_tie_by_config_needs_a_config() -> None:
    task = sn.Task(
        nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)),
        "cross-entropy",
        (torch.randn(8, 4), torch.arange(8) % 2),
    )
    what = r"^tie must be 'config' for a network of transformers'\. Got 'config' for a Sequential\. Leave it out"
    with pytest.raises(sn.BadInputError, match=what):
        sn.prune(task, "magnitude", goals=[sn.RemovedNeurons(1)], tie="config")


def test_numbers_of_a_config_are_known_by_what_they_change() -> None:
    model, _ = bert()
    found = axes_by_number(model)
    assert has_config(model)
    assert not has_config(nn.Linear(2, 2))
    assert ("bert.encoder.layer.1.output.dense.weight", 1) in found["intermediate_size",]
    assert ("bert.encoder.layer.1.output.dense.weight", 0) in found["hidden_size",]
    assert ("num_attention_heads",) not in found
    assert numbers(model.config)["num_attention_heads",] == 4


def test_a_language_model_that_keeps_its_keys_is_told_how_not_to() -> None:
    model, batch = gpt2()
    model.config.use_cache = True
    with pytest.raises(sn.BadInputError, match=r"Say model\.config\.use_cache = False"):
        sn.rank(sn.Task(model.eval(), "next-token", batch), "magnitude")


def test_a_number_counts_heads_by_its_own_name_not_by_that_of_the_config_around_it() -> None:
    assert _counts_heads(("text_config", "num_attention_heads"))
    assert not _counts_heads(("head_config", "hidden_size"))
    assert not _counts_heads(("text_config", "head_dim"))
