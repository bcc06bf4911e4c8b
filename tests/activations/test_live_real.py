"""The live source on a real language model and its text."""

from pathlib import Path

import pytest
import torch

from saeworks.activations.live import RowReader
from saeworks.activations.ring import RingSource
from saeworks.config import BufferConfig, ModelConfig, TextConfig
from saeworks.lm.model import LanguageModel
from saeworks.lm.text import Corpus

pytestmark = pytest.mark.real

BATCH = 4096


@pytest.fixture(scope="module")
def parts(real_data: Path) -> tuple[LanguageModel, Corpus]:
    lm = LanguageModel.load(ModelConfig(name=str(real_data / "stories260K")))
    text = TextConfig(
        source=str(real_data / "text" / "tinystories_train.txt"), context=128, max_documents=3000
    )
    corpus = Corpus(text, lm.tokenizer, bos_id=lm.bos_id, max_context=lm.max_context, seed=0)
    return lm, corpus


def source(
    parts: tuple[LanguageModel, Corpus], memory: str, sites: tuple[str, ...] = ("layers.*",)
) -> RingSource:
    lm, corpus = parts
    stream, buffer = corpus.stream("train", sequences=64), BufferConfig(memory=memory)
    return RingSource(RowReader(lm, stream, lm.sites(sites)), buffer, BATCH, seed=0)


def test_a_batch_draws_on_a_thousand_documents(parts: tuple[LanguageModel, Corpus]):
    """What the design asks for: measured on a ring of 120 MiB."""
    live = source(parts, "120MiB", ("layers.0",))
    facts = live.describe()
    documents = next(live).document.unique().numel()
    assert facts["documents_per_batch"] >= 1000
    assert documents >= 1000


def test_a_resumed_source_continues_to_the_bit(parts: tuple[LanguageModel, Corpus]):
    whole, resumed = source(parts, "8MiB"), source(parts, "8MiB")
    for _ in range(4):
        next(whole)
    resumed.load_state_dict(whole.state_dict())
    for _ in range(4):
        a, b = next(whole), next(resumed)
        assert all(torch.equal(a.x[site], b.x[site]) for site in whole.planes)
        assert torch.equal(a.document, b.document)
