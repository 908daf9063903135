"""Train the demo model: a tokenizer and a small Llama, saved as safetensors directories.

    python train.py --out build --minutes 90                       # from nothing
    python train.py --out build --minutes 45 --lr 1e-3 --resume    # go on from the weights in build/hf

A run that was interrupted goes on where it stopped with the same command and --resume.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import corpus

SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|fim_prefix|>",
    "<|fim_suffix|>",
    "<|fim_middle|>",
]
MARKUP = [
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<tools>",
    "</tools>",
    "<think>",
    "</think>",
]
CONTEXT = 1024
HEAD_SIZE = 32
WARM_UP_STEPS = 100
# Loss weight of the tokens that the model only reads: small, so that it still learns what is asked for.
READ_WEIGHT = 0.03
# Loss weight of plain stories. They are long and mostly chance: at full weight they would drown the answers.
STORY_WEIGHT = 0.25


# --- tokenizer --------------------------------------------------------------------------------------------


def train_tokenizer(rng: Random, vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE with single digits, from 40,000 documents."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=SPECIAL + MARKUP,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=20,
    )
    tokenizer.train_from_iterator((corpus.document(rng) for _ in range(40_000)), trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        bos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        model_max_length=CONTEXT,
    )


# --- batches ----------------------------------------------------------------------------------------------


def token_ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


class Weighting:
    """How much each token of a document counts in the loss: what the model should say most."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.opening = token_ids(tokenizer, "<|im_start|>assistant\n")
        self.turn_start, self.turn_end = token_ids(tokenizer, "<|im_start|><|im_end|>")
        (self.middle,) = token_ids(tokenizer, corpus.FIM_MIDDLE)

    def weights(self, ids: list[int]) -> list[float]:
        if ids[0] == self.turn_start:
            return self.of_conversation(ids)
        if self.middle in ids:
            before = ids.index(self.middle) + 1
            return [STORY_WEIGHT] * before + [1.0] * (len(ids) - before)
        return [STORY_WEIGHT] * len(ids)

    def of_conversation(self, ids: list[int]) -> list[float]:
        """Full weight for the assistant's turns, with the token that ends them."""
        weights, speaking = [], False
        for i, token in enumerate(ids):
            weights.append(1.0 if speaking else READ_WEIGHT)
            if token == self.turn_end:
                speaking = False
            elif ids[max(0, i + 1 - len(self.opening)) : i + 1] == self.opening:
                speaking = True
        return weights


def batches(
    tokenizer: PreTrainedTokenizerFast, rng: Random, rows: int, length: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless (token ids, loss weights), each of `rows` by `length` + 1; documents follow one another."""
    weighting = Weighting(tokenizer)
    ids: list[int] = []
    weights: list[float] = []
    size = rows * (length + 1)
    while True:
        while len(ids) < size:
            document = token_ids(tokenizer, corpus.document(rng))
            ids += document
            weights += weighting.weights(document)
        yield torch.tensor(ids[:size]).view(rows, -1), torch.tensor(weights[:size]).view(rows, -1)
        ids, weights = ids[size:], weights[size:]


# --- training ---------------------------------------------------------------------------------------------


@dataclass
class Progress:
    """Where a run stands; saved with the optimizer so that an interrupted run can go on."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0


def new_model(arguments: argparse.Namespace, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=arguments.width,
        intermediate_size=arguments.feed_forward,
        num_hidden_layers=arguments.layers,
        num_attention_heads=arguments.width // HEAD_SIZE,
        num_key_value_heads=max(1, arguments.width // HEAD_SIZE // 3),
        max_position_embeddings=CONTEXT,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def new_optimizer(model: LlamaForCausalLM) -> torch.optim.Optimizer:
    matrices = [p for p in model.parameters() if p.dim() > 1]
    norms = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95))


def learning_rate(peak: float, step: int, done: float, hold: float) -> float:
    """Linear warm-up over steps, the peak until the share `hold` of the time is done, then linear to zero."""
    return peak * min(1.0, (step + 1) / WARM_UP_STEPS, (1 - done) / (1 - hold))


def train_step(
    model: LlamaForCausalLM,
    optimizer: torch.optim.Optimizer,
    ids: torch.Tensor,
    weights: torch.Tensor,
    bf16: bool,
) -> float:
    """One update; returns the loss in nats per token, weighted."""
    with torch.autocast(ids.device.type, dtype=torch.bfloat16, enabled=bf16):
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
    losses = torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
    )
    counts = weights[:, 1:].flatten()
    loss = (losses * counts).sum() / counts.sum()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return float(loss.item())


def save_model(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, directory: Path, half: bool = False
) -> None:
    """Write a Transformers directory; `half` stores float16 instead of float32."""
    # A conversation ends with the end of a turn, a story or a middle with the end of the text.
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, tokenizer.bos_token_id]
    tokenizer.chat_template = corpus.TEMPLATE_FILE.read_text(encoding="utf-8")
    # Left by from_pretrained: where it was read from is of no interest to anyone else.
    for key in ("is_local", "local_files_only"):
        tokenizer.init_kwargs.pop(key, None)
    tokenizer.save_pretrained(directory)
    if half:
        model.half().save_pretrained(directory)  # type: ignore[no-untyped-call]
        model.float()  # type: ignore[no-untyped-call]
    else:
        model.save_pretrained(directory)


class Run:
    """One training run: what is trained, what it is trained with, and where that is saved."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.directory: Path = arguments.out / "hf"
        self.state_file: Path = arguments.out / "state.pt"
        self.progress = Progress()
        if arguments.resume:
            self.tokenizer = PreTrainedTokenizerFast.from_pretrained(self.directory)
            self.model = LlamaForCausalLM.from_pretrained(self.directory, dtype=torch.float32)
        else:
            self.tokenizer = train_tokenizer(Random(arguments.seed), arguments.vocabulary)
            self.model = new_model(arguments, self.tokenizer)
        self.model.to(arguments.device).train()
        self.optimizer = new_optimizer(self.model)
        if arguments.resume and self.state_file.exists():
            state = torch.load(self.state_file, weights_only=True)
            self.optimizer.load_state_dict(state["optimizer"])
            self.progress = Progress(**state["progress"])

    def save(self) -> None:
        save_model(self.model, self.tokenizer, self.directory)
        state = {"optimizer": self.optimizer.state_dict(), "progress": vars(self.progress)}
        torch.save(state, self.state_file)

    def finish(self) -> None:
        """Save the weights, and no state: going on from here is a new run with its own schedule."""
        self.model.train(False)
        save_model(self.model, self.tokenizer, self.directory)
        save_model(self.model, self.tokenizer, self.arguments.out / "hf-half", half=True)
        self.state_file.unlink(missing_ok=True)

    def train(self) -> None:
        arguments, progress = self.arguments, self.progress
        # The step is part of the seed, so that a resumed run does not read the same documents again.
        rng = Random(f"{arguments.seed} {progress.step}")
        average: float | None = None
        last = time.monotonic()
        for ids, weights in batches(self.tokenizer, rng, arguments.rows, arguments.length):
            done = progress.seconds / (arguments.minutes * 60)
            if done >= 1:
                break
            rate = learning_rate(arguments.lr, progress.step, done, arguments.hold)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            device = arguments.device
            loss = train_step(self.model, self.optimizer, ids.to(device), weights.to(device), arguments.bf16)
            average = loss if average is None else 0.98 * average + 0.02 * loss
            now = time.monotonic()
            progress.step += 1
            progress.tokens += ids.numel()
            progress.seconds += now - last
            last = now
            if progress.step % 25 == 0 or progress.step == 1:
                self.report(average, rate, done)
            if progress.step % 250 == 0:
                self.save()

    def report(self, loss: float, rate: float, done: float) -> None:
        speed = self.progress.tokens / self.progress.seconds
        millions = self.progress.tokens / 1e6
        print(
            f"step {self.progress.step} loss {loss:.4f} lr {rate:.2e} {speed:.0f} tokens/s "
            f"{millions:.1f}M tokens {done:.0%}",
            flush=True,
        )


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train the demo model.")
    parser.add_argument("--out", type=Path, default=Path("build"), help="where weights are read and written")
    parser.add_argument("--minutes", type=float, default=60, help="length of the run")
    parser.add_argument(
        "--resume", action="store_true", help="go on from the weights and tokenizer in OUT/hf"
    )
    parser.add_argument("--rows", type=int, default=8, help="sequences in a batch")
    parser.add_argument("--length", type=int, default=CONTEXT // 2, help="tokens in a sequence")
    parser.add_argument("--lr", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--hold", type=float, default=0.4, help="share of the run before the rate falls")
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16, with float32 weights")
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--feed-forward", type=int, default=512)
    parser.add_argument("--vocabulary", type=int, default=2048)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 is as many as torch likes")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args(argv)


def main() -> None:
    arguments = parse_arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    run = Run(arguments)
    count = sum(p.numel() for p in run.model.parameters())
    print(f"{count / 1e6:.2f}M parameters, {len(run.tokenizer)} tokens in the vocabulary", flush=True)
    run.train()
    run.finish()
    print("done", flush=True)


if __name__ == "__main__":
    main()
