"""Floor 5. `--data` of several texts, mixed by weight: one tokenizer, token files for each."""

from dataclasses import replace
from pathlib import Path

from msgspec.structs import replace as with_settings

from nanograd.data import DataError
from nanograd.data.mixture import BLOCK, shares
from nanograd.prepare import Prepared, PreparedText, Stage, cached_tokens, prepare, read_or_make
from nanograd.settings import TrainConfig
from pre_process.token_files import Manifest
from pre_process.token_shards import holds_tokens
from pre_process.tokenizer import Tokenizer


def parse_data(data: str | None) -> list[tuple[str | None, float]]:
    """(path, weight) of each text of `--data`: a path alone, or PATH=WEIGHT,PATH=WEIGHT; '-' is the embedded excerpt.

    Raises DataError with what is wrong.
    """
    if data is None or "=" not in data or Path(data).exists():
        return [(data, 1.0)]
    found: dict[str | None, float] = {}
    for part in data.split(","):
        path, _, weight = part.rpartition("=")
        try:
            number = float(weight)
        except ValueError:
            path = ""
        if not path:
            raise DataError(f"--data: {part!r} is no PATH=WEIGHT; several texts are PATH=WEIGHT,PATH=WEIGHT")
        if (key := None if path == "-" else path) in found:
            raise DataError(f"--data names {path} twice")
        found[key] = number
    return list(found.items())


def first_text(config: TrainConfig) -> TrainConfig:
    """The settings as if the first text of a mixture were the only one."""
    return with_settings(config, data=parse_data(config.data)[0][0])


def prepare_all(config: TrainConfig, stage: Stage) -> Prepared:
    """What `prepare` makes of the first text, which decides on tokenizer and word vectors; token files of the others.

    Raises as `prepare`, and DataError for weights that make no sense or token files of another tokenizer.
    """
    texts = parse_data(config.data)
    shares([weight for _, weight in texts], BLOCK)  # raises before hours of preparation, not after
    prepared = prepare(first_text(config), stage)
    if len(texts) == 1:
        return prepared
    total = sum(weight for _, weight in texts)
    mixed = [PreparedText(prepared.folder, prepared.manifest, texts[0][1] / total)]
    for path, weight in texts[1:]:
        folder, manifest = _other_text(with_settings(config, data=path), prepared.tokenizer, stage)
        mixed.append(PreparedText(folder, manifest, weight / total))
    return replace(prepared, mixed=tuple(mixed))


def _other_text(config: TrainConfig, tokenizer: Tokenizer, stage: Stage) -> tuple[Path, Manifest]:
    given = Path(config.data) if config.data is not None and holds_tokens(config.data) else None
    folder = given or cached_tokens(config, tokenizer)
    manifest = read_or_make(config, folder, tokenizer, stage)
    if manifest.tokenizer_sha256 != tokenizer.sha256:
        raise DataError(
            f"{folder} was made with another tokenizer than the first text of --data: one model reads both, "
            "so make its token files anew with the tokenizer of the first"
        )
    return folder, manifest
