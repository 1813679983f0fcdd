"""Floor 5. A prepared text and its settings → training batches, and validation batches laid out the same way."""

from pathlib import Path

from nanograd.data.batches import Batch, TrainingBatches, validation_batches
from nanograd.settings import TrainConfig
from pre_process.token_reader import TokenReader, open_reader


def training_batches(config: TrainConfig, folder: Path, *, vocab_size: int, end_of_text: int) -> TrainingBatches:
    """Micro-batches of the folder's training tokens. Raises TokenFileError, DataError."""
    return TrainingBatches(
        open_reader(folder, "train", vocab_size=vocab_size),
        batch_size=config.batch_size,
        context_length=config.model.context_length,
        seed=config.seed,
        layout=config.loader.layout,
        end_of_text=end_of_text,
    )


def validation_set(config: TrainConfig, folder: Path, *, vocab_size: int, end_of_text: int) -> list[Batch]:
    """At most about `eval_tokens` of the folder's validation tokens. Raises TokenFileError, DataError."""
    ids: TokenReader = open_reader(folder, "val", vocab_size=vocab_size)
    return list(
        validation_batches(
            ids,
            batch_size=config.batch_size,
            context_length=config.model.context_length,
            max_tokens=config.eval_tokens,
            layout=config.loader.layout,
            end_of_text=end_of_text,
        )
    )
