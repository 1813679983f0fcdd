"""Floor 5. Every setting of `nanograd.train`, with its default, its bounds and its help; and the presets."""

from typing import Annotated, Literal

import msgspec
from msgspec.structs import replace

from nanograd.data import LayoutName
from nanograd.models import PRESETS as MODEL_PRESETS
from nanograd.models import DecoderLMConfig
from nanograd.optim_settings import OptimConfig
from nanograd.precision import Precision

Count = Annotated[int, msgspec.Meta(ge=1, lt=2**31)]  # compiled code counts in 64 bits, products too
CountOrZero = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
Share = Annotated[float, msgspec.Meta(ge=0, lt=1)]
LossScale = Annotated[float, msgspec.Meta(ge=1, le=2**32)]  # at one halving a step, 32 steps from the top to 1
Path = Annotated[str, msgspec.Meta(min_length=1)]
MatmulPrecision = Literal["float32", "tf32", "bf16"]


class TextConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """From text to token ids."""

    pattern: Literal["gpt2", "cl100k", "naive"] = "gpt2"
    """how text is cut into words before byte-pair encoding"""
    normalizer: Literal["none", "nfc", "nfkc", "ascii"] = "none"
    """what is done to the text first; none loses nothing"""
    min_frequency: Count = 2
    """a pair of tokens is merged only if it occurs at least this often"""
    val_fraction: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.05
    """share of the text, by whole documents, that is held out for validation"""
    cache: Path | None = None
    """folder for prepared text (None: the user's cache folder)"""


class LoaderConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """From token ids to batches."""

    layout: LayoutName = "windows"
    """a row: any T tokens (windows), whole documents that don't see each other (packed), or one document (padded)"""
    prefetch: Annotated[int, msgspec.Meta(ge=0, le=64)] = 0
    """batches made ahead, each by a thread of its own (0: when they are needed)"""


class TrainConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Train a decoder language model."""

    preset: str = "tiny"
    """where the defaults come from: tiny, small, speedrun, psyduck-60m, llm-small-131m"""
    config: Path | None = None
    """TOML file whose settings replace the preset's"""
    data: Path | None = None
    """text file, folder of .txt/.md files, .jsonl with a `text` field, or token folder (None: Wikipedia excerpt)

    Several are mixed by weight, PATH=WEIGHT,PATH=WEIGHT, and the tokenizer is the first one's."""
    pre_process: Path | None = None
    """folder by `python -m pre_process fit`, whose tokenizer and word vectors are used: none are trained"""
    out: Path | None = None
    """run folder (None: runs/PRESET, numbered if that is taken)"""
    steps: Count = 1000
    """optimizer steps"""
    batch_size: Count = 16
    """sequences in a micro-batch"""
    accumulate: Count = 1
    """micro-batches whose gradients are added up for one step"""
    seed: Annotated[int, msgspec.Meta(ge=0, lt=2**32)] = 0
    """the only source of chance"""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: a GPU if one can be used, else the CPU; which one it was is saved with the run"""
    matmul_precision: MatmulPrecision = "float32"
    """products of float32 matrices, which are summed in float32 in any case: bf16 rounds factors to 8 bits and needs a
    CPU with AVX-512 BF16 or a GPU; tf32 rounds them to 11 bits and needs a GPU (A100 or later, both)"""
    precision: Precision = "float32"
    """what the model computes in; weights are kept in float32 all the same. bf16 and fp16 are for GPUs: on the CPU they
    run by the plain formulas, slowly, as a proof"""
    loss_scale: LossScale | None = None
    """fp16: what the loss is multiplied by at first, lest gradients vanish (None: 65536); overflow halves it"""
    loss_scale_steps: Count | None = None
    """fp16: steps without overflow that double it (None: 2000)"""
    cuda_graph: Literal["auto", "on", "off"] = "auto"
    """on a GPU: record the whole step once and repeat it as one launch (auto: for models so small that it pays)"""
    attention_kernel: Literal["own", "cudnn"] = "own"
    """on a GPU, in 16 bits: this project's kernel, or NVIDIA's cuDNN (needs the extra of that name) for all it knows,
    which is neither documents nor padding, dropout or ALiBi"""
    recompute_blocks: bool = False
    """keep each block's input only and run the block again in backward: less memory, a third more arithmetic"""
    init: Literal["word2vec", "random"] = "word2vec"
    """first values of the token embeddings, and of the output layer"""
    word2vec_architecture: Literal["cbow", "skip-gram"] = "skip-gram"
    """what word2vec predicts: a token from its neighbours, or the token from each neighbour (slower)"""
    word2vec_epochs: Count = 5
    """passes of word2vec over the training tokens"""
    freeze_embeddings: bool = False
    """token embeddings keep their first values; needs --no-tie-embeddings, or the output layer would keep them too"""
    eval_every: Count = 100
    """steps between two passes over the validation tokens"""
    eval_tokens: CountOrZero = 16384
    """validation tokens in such a pass, always the same ones (0: all)"""
    patience: CountOrZero = 0
    """evaluations in a row without a better validation loss after which training stops (0: it never does); those that
    a jump of the loss calls for besides don't count"""
    sample_every: CountOrZero = 250
    """steps between two samples (0: only at the end)"""
    sample_prompt: str = "The"
    """how a sample begins"""
    sample_tokens: CountOrZero = 60
    """length of a sample"""
    checkpoint_every: CountOrZero = 0
    """steps between two checkpoints (0: at each evaluation); the best model so far is saved besides"""
    checkpoint_minutes: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """write one as well when the last is so many minutes old (0: by steps only)"""
    keep: Annotated[int, msgspec.Meta(ge=2)] = 2
    """newest checkpoints to keep, beside the best one; if one is damaged, the one before must be there"""
    keep_every: CountOrZero = 0
    """keep the checkpoints of every so many steps for good (0: none)"""
    on_save_error: Literal["go-on", "stop"] = "go-on"
    """when a checkpoint can't be written: warn, train on and try again at the next, or stop"""
    resume: Literal["newest", "auto"] | None = None
    """go on from the newest whole checkpoint in --out, with its settings; auto: start afresh if there is none"""
    resume_changed: bool = False
    """resume although settings or data are not those of the checkpoint"""
    pause_at: Count | None = None
    """save after this step and stop, as if by Ctrl-C: --resume goes on, and the schedule is that of all steps"""
    profile: str | None = None
    """say where time and memory of steps 3 to 12 went; with a file name, write their timeline (Perfetto) there too"""
    tensorboard: bool = False
    """write metrics for TensorBoard too, into a folder `tensorboard` of the run (needs the extra of that name)"""
    dry_run: bool = False
    """print settings, parameters, tokens and memory, then stop"""
    text: TextConfig = TextConfig()
    """from text to token ids"""
    loader: LoaderConfig = LoaderConfig()
    """from token ids to batches"""
    model: DecoderLMConfig = DecoderLMConfig()
    """the decoder"""
    optim: OptimConfig = OptimConfig()
    """the optimizer, its schedule and its guard rails"""


def check_frozen(config: TrainConfig) -> None:
    """Raise ValueError if the output layer would be frozen too. Once all settings are known: one may mend another."""
    if config.freeze_embeddings and config.model.tie_embeddings:
        raise ValueError(
            "--freeze-embeddings would freeze the output layer too, as it is the same matrix: "
            "add --no-tie-embeddings to give it one of its own"
        )


def check_precision(config: TrainConfig) -> None:
    """Raise ValueError for settings that contradict --precision."""
    if config.precision != "float32" and config.matmul_precision != "float32":
        raise ValueError(
            f"--matmul-precision {config.matmul_precision} rounds float32 factors, but with --precision "
            f"{config.precision} they have 16 bits: give one of the two"
        )
    if config.precision == "float32" and config.attention_kernel == "cudnn":
        raise ValueError("--attention-kernel cudnn computes in 16 bits: add --precision bf16")
    if config.precision != "fp16" and (config.loss_scale is not None or config.loss_scale_steps is not None):
        raise ValueError("--loss-scale and --loss-scale-steps are for --precision fp16: no other type needs them")
    if config.precision == "fp16" and config.optim.fuse_optimizer:
        raise ValueError("--fuse-optimizer can't skip a step that overflows, as fp16 has to: give --precision bf16")


def check_cuda_graph(config: TrainConfig) -> None:
    """Raise ValueError for --cuda-graph on where a step can't be recorded. Once all settings are known."""
    if config.cuda_graph == "on" and (why := why_no_graph(config)):
        raise ValueError(f"--cuda-graph on: {why}; give --cuda-graph auto")


def why_no_graph(config: TrainConfig) -> str:
    """What keeps a training step from being recorded; '' if nothing does."""
    reasons = {
        "graphs are recorded on a GPU, and --device is cpu": config.device == "cpu",
        "with --layout padded every batch has another shape": config.loader.layout == "padded",
        "adafactor's step count would be recorded, too": config.optim.optimizer == "adafactor",
        "--fuse-optimizer looks at each gradient": config.optim.fuse_optimizer,
        "--skip-spikes looks at each loss": config.optim.skip_spikes,
        "--precision fp16 looks at each gradient": config.precision == "fp16",
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


_tiny = TrainConfig(
    preset="tiny",
    model=MODEL_PRESETS["tiny"],
    steps=2300,
    batch_size=8,
    eval_every=200,
    sample_every=400,
    optim=OptimConfig(lr=2e-3, warmup_steps=60),
)

PRESETS: dict[str, TrainConfig] = {
    "tiny": _tiny,  # about three minutes on two cores
    "small": replace(
        _tiny, preset="small", model=MODEL_PRESETS["small"], steps=6000, batch_size=16, sample_every=1000,
        optim=OptimConfig(lr=6e-4, warmup_steps=200),
    ),
    "speedrun": replace(
        _tiny, preset="speedrun", model=MODEL_PRESETS["speedrun"], steps=360, batch_size=24, init="random",
        eval_tokens=0, eval_every=50, sample_every=0, text=TextConfig(val_fraction=0.1),
        optim=OptimConfig(optimizer="muon", lr=1e-2, muon_lr=2e-2, schedule="wsd", decay_share=0.8, warmup_steps=20),
    ),
    "psyduck-60m": replace(
        _tiny, preset="psyduck-60m", model=MODEL_PRESETS["psyduck-60m"], steps=10_000, batch_size=16,
        sample_every=1000, text=TextConfig(pattern="cl100k"), init="random",
        optim=OptimConfig(lr=3e-4, schedule="constant", warmup_steps=0, beta2=0.999, weight_decay=0.01, clip_norm=0.0),
    ),
    "llm-small-131m": replace(
        _tiny, preset="llm-small-131m", model=MODEL_PRESETS["llm-small-131m"], steps=24_000,
        accumulate=4, eval_every=500, sample_every=2000, init="random",
        optim=OptimConfig(lr=5e-4, warmup_steps=2400, min_lr_ratio=0.05),
    ),
}  # fmt: skip
