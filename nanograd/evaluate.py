"""Floor 6. How well does a model predict a text? python -m nanograd.evaluate RUN --data TEXT

Every token of every document counts once: each document is read by itself, in windows of the context length where it is
longer. --freeze keeps the figures in RUN as a model card, with the hashes of weights, tokenizer and text; --check makes
them again from the card and says whether they are the same.
"""

import math
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec

from nanograd import kernels, terminal
from nanograd.config import parse_flags
from nanograd.data.documents import Split, Text, open_documents
from nanograd.evaluation import DocumentLoss, Figures, check_stride, document_losses, figures
from nanograd.io.checkpoint import load_model
from nanograd.io.model_card import Card, hash_files, read_card, versions, write_card
from nanograd.models import DecoderLM
from nanograd.models.quantized import Weights, hold_weights
from nanograd.optim_settings import OptimConfig
from nanograd.precision import Precision, float_type
from nanograd.settings import MatmulPrecision, TrainConfig, check_precision
from nanograd.warm_up import compiled_kernels
from pre_process.terminal import console
from pre_process.tokenizer import Tokenizer

ABOUT = (__doc__ or "").removeprefix("Floor 6. ")
TOLERANCE = 1e-5  # of the loss: what another machine's arithmetic may change


class EvaluateConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Measure how well a model predicts a text. The result goes to standard output."""

    run: str
    """run folder that nanograd.train made"""
    data: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    """text file, folder of .txt/.md files, .jsonl with a `text` field, or token folder; - is the Wikipedia excerpt"""
    split: Split | None = None
    """what of it: val is the share that nanograd.train holds out (None: val of a token folder, all of a text)"""
    val_fraction: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.05
    """that share, of a text; a token folder is already split"""
    stride: Annotated[int, msgspec.Meta(ge=0)] = 0
    """windows of a long document begin every so many tokens; what overlaps is only context (0: side by side)"""
    batch_size: Annotated[int, msgspec.Meta(ge=1)] = 16
    """windows computed together; makes no difference to the figures"""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: a GPU if one can be used, else the CPU"""
    precision: Precision = "float32"
    """what the model computes in; bf16 and fp16 are for GPUs: on the CPU they run by the plain formulas, slowly"""
    weights: Weights = "float32"
    """how the matrices of the blocks are held: bf16, int8 or fp8 (E4M3) need less memory; products stay float32"""
    matmul_precision: MatmulPrecision = "float32"
    """matrix products: bf16 rounds factors to 8 bits, sums in float32, and needs a CPU with AVX-512 BF16"""
    documents: Annotated[int, msgspec.Meta(ge=0)] = 3
    """how many of the worst and of the best predicted documents are listed"""
    json: bool = False
    """print everything, all documents too, as JSON"""
    freeze: bool = False
    """keep the figures in RUN: MODEL_CARD.md to read, model_card.json to check"""
    check: bool = False
    """make the figures of RUN's card again; exit code 1 if they are others"""


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate, print, freeze or check. Returns the exit code; raises ValueError and OSError on bad input."""
    config = parse_flags(EvaluateConfig, argv, prog="python -m nanograd.evaluate", about=ABOUT)
    terminal.configure_logging()
    card = None
    if config.check:
        if config.freeze:
            raise ValueError("--check compares with the card that --freeze would overwrite: give one of them")
        card = read_card(Path(config.run))
        config = _as_on_card(config, card)
    if config.data is None:
        raise ValueError("--data is missing: name a text or a token folder (- is the Wikipedia excerpt)")
    config = msgspec.structs.replace(config, device=terminal.chosen_device(config.device))
    kernels.check_matmul_precision(config.matmul_precision, config.device)
    model, tokenizer = load_model(Path(config.run), device=config.device)
    settings = TrainConfig(
        model=model.config,
        device=config.device,
        precision=config.precision,
        matmul_precision=config.matmul_precision,
        optim=OptimConfig().resolved(accumulate=1),  # as in most runs: then their kernels are here already
    )
    check_precision(settings)
    model.astype(float_type(config.precision))
    parameters = model.n_parameters()
    if said := hold_weights(model, config.weights, precision=config.precision):
        print(said, file=sys.stderr)
    with compiled_kernels(settings):
        pass  # a process rounds otherwise with code it has compiled itself than with code that it finds
    text, losses = measure(config, model, tokenizer)
    found = figures(losses, text.n_bytes)
    if card is not None:
        return _compare(card, _card(config, model, parameters, text, found))
    _print(config, text, found, losses)
    if config.freeze:
        write_card(Path(config.run), _card(config, model, parameters, text, found))
        print(f"next: python -m nanograd.evaluate {shlex.quote(config.run)} --check", file=sys.stderr)
    return 0


def measure(config: EvaluateConfig, model: DecoderLM, tokenizer: Tokenizer) -> tuple[Text, list[DocumentLoss]]:
    """What is in `config.data`, and what each document of it costs. Raises as `open_documents` and OSError."""
    data = None if config.data == "-" else config.data
    check_stride(config.stride, model.config.context_length)
    text = open_documents(data, tokenizer, split=config.split, val_fraction=config.val_fraction)
    done = 0.0
    with terminal.progress_bar("evaluating") as show:

        def advance(n_bytes: float) -> None:
            nonlocal done
            done += n_bytes
            show(round(done), text.n_bytes)

        losses = document_losses(
            model,
            text.documents,
            end_of_text=tokenizer.end_of_text_id,
            batch_size=config.batch_size,
            stride=config.stride,
            device=config.device,
            progress=advance,
        )
        return text, list(losses)


def _as_on_card(config: EvaluateConfig, card: Card) -> EvaluateConfig:
    """The card's settings, on this run, device and, if it is named, this text."""
    try:
        settings = msgspec.convert({**card.settings, "run": config.run, "device": config.device}, EvaluateConfig)
    except msgspec.ValidationError as error:
        raise ValueError(f"the settings on the card of {config.run} are none: {error}") from None
    return msgspec.structs.replace(settings, data=config.data or settings.data, check=True)


def _card(config: EvaluateConfig, model: DecoderLM, parameters: int, text: Text, found: Figures) -> Card:
    settings: dict[str, Any] = {
        "data": config.data,
        "split": text.split,
        "val_fraction": config.val_fraction,
        "stride": config.stride or model.config.context_length,
        "batch_size": config.batch_size,
        "precision": config.precision,
        "weights": config.weights,
        "matmul_precision": config.matmul_precision,
    }
    flags = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return Card(
        parameters=parameters,
        model=msgspec.to_builtins(model.config),
        files=hash_files(Path(config.run)),
        source=text.source,
        source_sha256=text.sha256,
        settings=settings,
        figures=found,
        command=shlex.join(["python", "-m", "nanograd.evaluate", config.run, *flags, "--freeze"]),
        versions=versions(),
    )


def _compare(card: Card, now: Card) -> int:
    """Print what is on the card beside what is true now. Returns 0 if the card holds, else 1."""
    changed = [name for name in card.files if card.files[name] != now.files.get(name)]
    changed += ["the text"] * (card.source_sha256 != now.source_sha256)
    for name in changed:
        print(f"{name}: not what the card was made from (another SHA-256)")
    then, found = (msgspec.structs.asdict(c.figures) for c in (card, now))
    for name, value in then.items():
        print(f"{name}: {value:.10g} on the card, {found[name]:.10g} now{'' if value == found[name] else ' (!)'}")
    holds = not changed and all(math.isclose(then[name], found[name], rel_tol=TOLERANCE) for name in then)
    exactly = " to the last bit" if then == found else ""
    print(f"the card holds{exactly}" if holds else "the card does NOT hold")
    return 0 if holds else 1


def _print(config: EvaluateConfig, text: Text, found: Figures, losses: Sequence[DocumentLoss]) -> None:
    if config.json:
        documents = [{**msgspec.to_builtins(d), "loss": d.loss, "bits_per_byte": d.bits_per_byte} for d in losses]
        print(msgspec.json.encode({**msgspec.to_builtins(found), "per_document": documents}).decode())
        return
    from rich.table import Table

    screen = console()
    total = Table("", "", title=f"{text.source} ({text.split})", show_header=False, title_justify="left")
    for name, value in (
        ("loss", f"{found.loss:.4f} nats per token"),
        ("perplexity", f"{found.perplexity:,.2f}"),
        ("bits per byte", f"{found.bits_per_byte:.4f}"),
        ("read", f"{found.documents:,} documents, {found.tokens:,} tokens, {found.bytes:,} bytes"),
    ):
        total.add_row(name, value)
    screen.print(total)
    if config.documents:
        screen.print(_documents_table(losses, config.documents))


def _documents_table(losses: Sequence[DocumentLoss], count: int) -> Any:
    """The worst and the best documents, by bits per byte."""
    from rich.table import Table

    order = sorted(losses, key=lambda loss: (-loss.bits_per_byte, loss.number))
    chosen = order if len(order) <= 2 * count else [*order[:count], *order[-count:]]
    table = Table("document", "bits per byte", "loss", "tokens", "begins", title="worst first", title_justify="left")
    for place, loss in enumerate(chosen):
        row = str(loss.number), f"{loss.bits_per_byte:.3f}", f"{loss.loss:.3f}", f"{loss.tokens:,}", loss.beginning
        table.add_row(*row, end_section=place == count - 1 and len(order) > 2 * count)
    return table


if __name__ == "__main__":
    sys.exit(terminal.run(main))
