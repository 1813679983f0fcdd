"""Floor 5. A prepared text, or several, and the settings → training batches, and validation batches laid out alike."""

from collections.abc import Iterator

from nanograd.data.batches import Batch, TrainingBatches, validation_batches
from nanograd.prepare import Prepared
from nanograd.settings import TrainConfig
from pre_process.token_reader import TokenReader, open_reader


def training_batches(config: TrainConfig, prepared: Prepared) -> TrainingBatches:
    """Micro-batches of the training tokens, of several texts by their weights. Raises TokenFileError, DataError."""
    return TrainingBatches(
        *_readers(prepared, "train"),
        batch_size=config.batch_size,
        context_length=config.model.context_length,
        seed=config.seed,
        layout=config.loader.layout,
        end_of_text=prepared.tokenizer.end_of_text_id,
        weights=[text.share for text in prepared.texts],
    )


def validation_set(config: TrainConfig, prepared: Prepared) -> list[Batch]:
    """At most about `eval_tokens` validation tokens, of several texts by their weights (0: all of each, unweighted)."""
    return [
        batch
        for text, ids in zip(prepared.texts, _readers(prepared, "val"), strict=True)
        for batch in validation_batches(
            ids,
            batch_size=config.batch_size,
            context_length=config.model.context_length,
            max_tokens=round(config.eval_tokens * text.share),
            layout=config.loader.layout,
            end_of_text=prepared.tokenizer.end_of_text_id,
        )
    ]


def _readers(prepared: Prepared, split: str) -> Iterator[TokenReader]:
    vocab_size = prepared.tokenizer.vocab_size
    return (open_reader(text.folder, split, vocab_size=vocab_size) for text in prepared.texts)
