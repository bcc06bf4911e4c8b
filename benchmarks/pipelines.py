"""SAEs on every block of a language model by saeworks and by its peers, from a folder and a text.

Each goes through its package's own entry for it, as its documentation says, with one TopK SAE per
block and the same model, text, width, k, tokens, batch and learning rate. Before the clock starts
the model is loaded and the text is tokenised, for all of them; what the clock sees is the language
model's passes, buffers, steps, and the SAEs written to disk.
"""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from time import perf_counter
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

NAMES = (
    "saeworks",
    "saeworks-bf16",
    "sparsify-signum",
    "sparsify-adam",
    "saelens",
    "saelens-autocast",
    "dictionary_learning",
)
"""As in trainers.py; `saelens-autocast` also has the language model in bf16 and fetches ahead."""
SEPARATOR = "<|endoftext|>"


@dataclass(frozen=True)
class Pipeline:
    """What all share.

    Attributes:
        model: a Hugging Face folder.
        text: a file of documents between lines of SEPARATOR.
        tokens: that every SAE is trained on.
        context: tokens of a sequence.
        buffer: rows that are shuffled among each other, where a package has such a buffer.
    """

    model: str
    text: str
    tokens: int
    width: int
    k: int
    batch: int
    context: int = 128
    lr: float = 1e-3
    buffer: int = 8192
    device: str = "cpu"

    @property
    def sequences(self) -> int:
        return self.tokens // self.context

    def documents(self) -> list[str]:
        """The text's documents, as many as the tokens need: six letters or fewer each."""
        longest = 6 * self.tokens + 100_000
        return [part.strip() for part in Path(self.text).read_text()[:longest].split(SEPARATOR)]


Ready = tuple[Callable[[], object], Callable[[], dict[str, Any]]]
"""The training, ready to be called; and afterwards what it trained."""


def saeworks(o: Pipeline, precision: str, out: Path) -> Ready:
    """`saeworks train`."""
    from saeworks.config import RunConfig, from_mapping
    from saeworks.suite import load_suite
    from saeworks.train.live_job import LiveJob

    run = {
        "model": {"name": o.model, "dtype": "bfloat16" if o.device != "cpu" else "float32"},
        "text": {"source": o.text, "context": o.context, "exclude_bos": False},
        "saes": [{"arch": "topk", "width": o.width, "k": o.k}],
        "train": {
            "tokens": o.tokens,
            "batch": o.batch,
            "lr": o.lr,
            "eval_every": 0,
            "checkpoint_every": 0,
            "precision": precision,
        },
        "device": o.device,
    }
    job = LiveJob.prepare(from_mapping(RunConfig, run, "benchmark"))
    row = 4 * sum(job.widths.values())
    run["buffer"] = {"memory": f"{-(-o.buffer * row // 2**20)}MiB", "normaliser_tokens": o.buffer}
    job = LiveJob.prepare(from_mapping(RunConfig, run, "benchmark"), job.lm)
    assert job.corpus

    def trained() -> dict[str, Any]:
        suite = load_suite(out)
        numel = sum(p.numel() for site in suite.sites for p in suite.at(site).parameters())
        return {"saes": len(suite.sites), "parameters": numel}

    return lambda: job.run(out, lambda line: None), trained


def tokenised(o: Pipeline) -> Any:
    """The text as sequences of tokens, by sparsify's own `chunk_and_tokenize`."""
    from datasets import Dataset
    from sparsify.data import chunk_and_tokenize
    from transformers import AutoTokenizer

    text = Dataset.from_dict({"text": o.documents()})
    tokenizer = AutoTokenizer.from_pretrained(o.model)
    chunks = chunk_and_tokenize(text, tokenizer, max_seq_len=o.context, num_proc=1)
    if len(chunks) < o.sequences:
        raise SystemExit(f"{o.text} has {len(chunks)} sequences where {o.sequences} are needed")
    return chunks


def language_model(o: Pipeline, base: bool = False) -> Any:
    import torch
    from transformers import AutoModel, AutoModelForCausalLM

    kind = AutoModel if base else AutoModelForCausalLM
    dtype = torch.float32 if o.device == "cpu" else torch.bfloat16
    return kind.from_pretrained(o.model, dtype=dtype).to(o.device)


def blocks(o: Pipeline) -> list[str]:
    """Names of the blocks, relative to the base model."""
    import torch
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.from_pretrained(o.model)
    with torch.device("meta"):
        base = AutoModel.from_config(config)
    lists = [
        name
        for name, module in base.named_modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == config.num_hidden_layers
    ]
    return [f"{lists[0]}.{at}" for at in range(config.num_hidden_layers)]


def trained(saes: Any) -> dict[str, Any]:
    saes = list(saes)
    return {"saes": len(saes), "parameters": sum(p.numel() for s in saes for p in s.parameters())}


def sparsify(o: Pipeline, optimiser: str, out: Path) -> Ready:
    """`sparsify.Trainer`, on the base model."""
    from sparsify import SaeConfig, TrainConfig, Trainer

    sequences = tokenised(o).select(range(o.sequences))
    config = TrainConfig(
        SaeConfig(num_latents=o.width, k=o.k),
        batch_size=o.batch // o.context,
        optimizer=optimiser,
        lr=o.lr,
        lr_warmup_steps=max(1, o.tokens // o.batch // 20),
        hookpoints=blocks(o),
        log_to_wandb=False,
        save_dir=str(out),
    )
    trainer = Trainer(config, sequences, language_model(o, base=True))
    return trainer.fit, lambda: trained(trainer.saes.values())


def saelens(o: Pipeline, autocast: bool, out: Path) -> Ready:
    """`sae_lens.multi_sae_training_runner.MultiSAETrainingRunner`: one pass for all SAEs."""
    from sae_lens.config import LoggingConfig
    from sae_lens.load_model import HookedProxyLM
    from sae_lens.multi_sae_training_runner import (
        MultiSAETrainingRunner,
        MultiSAETrainingRunnerConfig,
    )
    from sae_lens.saes.topk_sae import TopKTrainingSAEConfig
    from transformers import AutoTokenizer

    model = language_model(o)
    sites = [f"{model.base_model_prefix}.{block}" for block in blocks(o)]
    sae = TopKTrainingSAEConfig(
        d_in=model.config.hidden_size, d_sae=o.width, k=o.k, device=o.device
    )
    prompts = max(1, o.batch // o.context)
    runner = MultiSAETrainingRunner(
        MultiSAETrainingRunnerConfig(
            saes=dict.fromkeys(sites, sae),
            hook_names={site: site for site in sites},
            model_name=o.model,
            model_class_name="AutoModelForCausalLM",
            context_size=o.context,
            training_tokens=o.tokens,
            store_batch_size_prompts=prompts,
            n_batches_in_buffer=o.buffer // o.context,  # contexts, whatever the name
            train_batch_size_tokens=o.batch,
            prepend_bos=False,
            device=o.device,
            autocast=autocast,
            autocast_lm=autocast,
            prefetch_llm_batches=autocast,
            lr=o.lr,
            lr_end=0.0,
            lr_warm_up_steps=max(1, o.tokens // o.batch // 20),
            lr_decay_steps=o.tokens // o.batch // 5,
            logger=LoggingConfig(log_to_wandb=False),
            checkpoint_path=None,
            output_path=str(out),
        ),
        override_dataset=tokenised(o),
        override_model=HookedProxyLM(model, AutoTokenizer.from_pretrained(o.model), sites),
    )
    return runner.run, lambda: trained(runner.saes.values())


def dictionary_learning(o: Pipeline, _variant: str, out: Path) -> Ready:
    """`dictionary_learning.training.trainSAE` on an `ActivationBuffer`, block by block."""
    from dictionary_learning.buffer import ActivationBuffer
    from dictionary_learning.trainers.top_k import AutoEncoderTopK, TopKTrainer
    from dictionary_learning.training import trainSAE
    from nnsight import LanguageModel
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(o.model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    causal = language_model(o)
    model = LanguageModel(causal, tokenizer=tokenizer)
    # its buffer takes text, so the sequences that the others see are written out again
    rows = tokenised(o)["input_ids"]
    text = [tokenizer.decode(row) for row in rows]
    steps, d = o.tokens // o.batch, causal.config.hidden_size
    names = blocks(o)

    def train() -> None:
        for layer, name in enumerate(names):
            module = model
            for part in f"{causal.base_model_prefix}.{name}".split("."):
                module = module[int(part)] if part.isdigit() else getattr(module, part)
            buffer = ActivationBuffer(
                cycle(text),
                model,
                module,
                d_submodule=d,
                n_ctxs=o.buffer // o.context,
                ctx_len=o.context,
                refresh_batch_size=max(1, o.batch // o.context),
                out_batch_size=o.batch,
                device=o.device,
            )
            trainer = {
                "trainer": TopKTrainer,
                "dict_class": AutoEncoderTopK,
                "activation_dim": d,
                "dict_size": o.width,
                "k": o.k,
                "layer": layer,
                "lm_name": o.model,
                "steps": steps,
                "lr": o.lr,
                "warmup_steps": max(1, steps // 20),
                "decay_start": steps - max(1, steps // 5),
                "device": o.device,
            }
            trainSAE(
                buffer, [trainer], steps=steps, save_dir=str(out / str(layer)), device=o.device
            )

    def saved() -> dict[str, Any]:
        import torch

        states = [
            torch.load(path, weights_only=True) for path in sorted(out.glob("*/trainer_0/ae.pt"))
        ]
        numel = sum(t.numel() for state in states for t in state.values() if t.dim())
        return {"saes": len(states), "parameters": numel}

    return train, saved


def main() -> None:
    """NAME, JSON of a Pipeline, threads, folder: one line of JSON on stdout."""
    began = perf_counter()
    name, options = sys.argv[1], Pipeline(**json.loads(sys.argv[2]))
    threads, out = int(sys.argv[3]), Path(sys.argv[4])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # packages that print must not talk into the answer
    import torch

    from saeworks.cost.machine import Neighbours, forget_peak, peak_bytes

    torch.set_num_threads(threads)
    package, _, variant = name.partition("-")
    if package == "saeworks":
        ready = saeworks(options, variant or "float32", out)
    elif package == "sparsify":
        ready = sparsify(options, variant, out)
    elif package == "saelens":
        ready = saelens(options, variant == "autocast", out)
    else:
        ready = dictionary_learning(options, variant, out)
    train, report = ready
    forget_peak()
    prepared, neighbours, start = perf_counter() - began, Neighbours(), perf_counter()
    train()
    if options.device != "cpu":
        torch.cuda.synchronize()
    seconds = perf_counter() - start
    quiet, reason = neighbours.verdict()
    answer = {
        "seconds": seconds,
        "seconds_before": prepared,
        "quiet": quiet,
        "quiet_reason": reason,
        "peak_rss_bytes": peak_bytes(),
        **report(),
    }
    if options.device != "cpu":
        answer["peak_device_bytes"] = torch.cuda.max_memory_allocated()
    answer["layer_tokens_per_second"] = answer["saes"] * options.tokens / seconds
    print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
