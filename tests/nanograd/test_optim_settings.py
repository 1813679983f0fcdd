"""Optimizer and schedule on the command line: what belongs together, what is refused, what a run then does."""

import msgspec
import numpy as np
import pytest

from nanograd import terminal, train
from nanograd.config import from_command_line, read_toml
from nanograd.io.checkpoint import load_model
from nanograd.memory import count_moments, estimate_memory
from nanograd.models import DecoderLM, DecoderLMConfig
from nanograd.optim import AdamW, FlatParameters, Muon
from nanograd.optim_settings import OPTIMIZERS, SCHEDULES, OptimConfig, learning_rate_of, make_optimizer
from nanograd.settings import PRESETS
from tests.nanograd.small_runs import fails, records

every = pytest.mark.parametrize


def parse(*argv: str) -> OptimConfig:
    config = from_command_line(PRESETS, argv, prog="train", about="")
    return config.optim.resolved(accumulate=config.accumulate)


def test_the_default_is_adamw_with_half_a_cosine():
    optim = parse()
    assert (optim.optimizer, optim.schedule) == ("adamw", "cosine")
    assert (optim.beta1, optim.beta2, optim.eps, optim.weight_decay, optim.min_lr_ratio) == (0.9, 0.95, 1e-8, 0.1, 0.1)
    assert (optim.momentum, optim.muon_lr, optim.decay_share) == (None, None, None)


@every("optimizer", OPTIMIZERS)
@every("schedule", SCHEDULES)
def test_every_optimizer_and_schedule_may_replace_the_defaults(optimizer, schedule):
    """The default preset has no option that belongs to its own choice alone: nobody has to take one back."""
    optim = parse("--optimizer", optimizer, "--schedule", schedule)
    assert (optim.optimizer, optim.schedule) == (optimizer, schedule)


def test_the_names_may_be_written_with_their_group():
    optim = parse("--optim.name", "muon", "--schedule.name", "wsd")
    assert optim == parse("--optimizer", "muon", "--schedule", "wsd")
    assert (optim.muon_lr, optim.momentum, optim.nesterov, optim.decay_share) == (optim.lr, 0.95, True, 0.2)


@every("name", OPTIMIZERS)
def test_what_is_resolved_stays_so_and_is_what_the_optimizer_gets(name):
    optim = parse("--optimizer", name)
    assert optim.resolved(accumulate=1) == optim
    options = {option for options in OPTIMIZERS.values() for option in options}
    assert {option for option in options if getattr(optim, option) is not None} == set(OPTIMIZERS[name])
    model = DecoderLM(DecoderLMConfig(vocab_size=9, context_length=4, n_layers=1, n_heads=1, d_model=4))
    made = make_optimizer(optim, FlatParameters(model), model.hidden_matrices())
    assert type(made).__name__.lower() == name


def test_every_option_reaches_its_optimizer():
    model = DecoderLM(DecoderLMConfig(vocab_size=9, context_length=4, n_layers=1, n_heads=1, d_model=4))
    flat, hidden = FlatParameters(model), model.hidden_matrices()
    given = {
        "adamw": ("--beta1 0.5 --beta2 0.6 --eps 0.01 --weight-decay 0.2",
                  {"betas": (0.5, 0.6), "eps": 0.01, "weight_decay": 0.2}),
        "adam": ("--beta1 0.5 --beta2 0.6 --eps 0.01", {"betas": (0.5, 0.6), "eps": 0.01, "weight_decay": 0.0}),
        "sgd": ("--momentum 0.5 --nesterov True --weight-decay 0.2",
                {"momentum": 0.5, "nesterov": True, "weight_decay": 0.2}),
        "lion": ("--beta1 0.5 --beta2 0.6 --weight-decay 0.2", {"betas": (0.5, 0.6), "weight_decay": 0.2}),
        "adafactor": ("--decay-power 0.5 --update-clip 2 --relative-step True --weight-decay 0.2",
                      {"decay_power": 0.5, "update_clip": 2.0, "relative_step": True, "weight_decay": 0.2}),
        "muon": ("--lr 0.001 --muon-lr 0.004 --momentum 0.5 --nesterov False --weight-decay 0.2",
                 {"lr_ratio": 4.0, "momentum": 0.5, "nesterov": False, "weight_decay": 0.2}),
    }  # fmt: skip
    assert given.keys() == OPTIMIZERS.keys()
    for name, (flags, expected) in given.items():
        made = make_optimizer(parse("--optimizer", name, *flags.split()), flat, hidden)
        assert {key: getattr(made, key) for key in expected} == expected
    muon = make_optimizer(parse("--optimizer", "muon", "--beta2", "0.6", "--eps", "0.01"), flat, hidden)
    assert isinstance(muon, Muon)
    assert (muon.adamw.betas, muon.adamw.eps, muon.adamw.weight_decay) == ((0.9, 0.6), 0.01, 0.1)


@every(
    ("argv", "message"),
    [
        ("--momentum 0.9", "--momentum 0.9 is no option of the optimizer adamw, but of sgd, muon"),
        ("--optimizer adam --weight-decay 0.1", "--weight-decay 0.1 is no option of the optimizer adam, but of adamw,"),
        (
            "--optimizer sgd --beta1 0.9",
            "--beta1 0.9 is no option of the optimizer sgd, but of adamw, adam, lion, muon",
        ),
        ("--optimizer lion --muon-lr 0.1", "--muon-lr 0.1 is no option of the optimizer lion, but of muon"),
        ("--schedule constant --min-lr-ratio 0", "--min-lr-ratio 0.0 is no option of the schedule constant"),
        ("--decay-share 0.1", "--decay-share 0.1 is no option of the schedule cosine, but of wsd"),
        ("--preset psyduck-60m --optimizer sgd", "--beta2 None takes back a preset's"),
        ("--fuse-optimizer", "can't clip by the norm of all gradients: give --clip-norm 0"),
        ("--fuse-optimizer --clip-norm 0 --accumulate 2", "can't add up gradients: give --accumulate 1"),
    ],
)
def test_what_does_not_belong_together_is_refused_in_one_line(argv, message, capsys):
    fails(train.main, [*argv.split(), "--dry-run"], message, capsys)


def test_a_presets_option_can_be_taken_back():
    assert parse("--preset", "psyduck-60m", "--optimizer", "sgd", "--beta2", "None").momentum == 0.9


def test_schedules_get_their_settings():
    flags = {
        "cosine": (["--min-lr-ratio", "0.5"], 0.5),
        "linear": (["--min-lr-ratio", "0.25"], 0.25),
        "constant": ([], 1.0),
        "inverse-sqrt": ([], 0.5),
        "wsd": (["--decay-share", "0.5", "--decay-shape", "1-sqrt", "--min-lr-ratio", "0.125"], 0.125),
    }
    assert flags.keys() == SCHEDULES.keys()
    for name, (argv, last) in flags.items():
        optim = parse("--lr", "2", "--warmup-steps", "10", "--schedule", name, *argv)
        assert learning_rate_of(optim, 9, 40) == 2
        assert learning_rate_of(optim, 39, 40) == pytest.approx(2 * last)
    assert learning_rate_of(optim, 24, 40) == pytest.approx(2 * (0.125 + 0.875 * (1 - 0.25**0.5)))


def test_the_matrices_of_the_blocks():
    """Three maps in qkv, two in SwiGLU's first matrix; neither embeddings nor head, norms or biases."""
    shape = {"vocab_size": 9, "context_length": 4, "n_layers": 2, "n_heads": 1, "d_model": 4, "d_hidden": 6}
    untied = {"tie_embeddings": False, "positions": "learned"}
    for activation, up in (("gelu", (6,)), ("swiglu", (6, 6))):
        model = DecoderLM(DecoderLMConfig(**shape, **untied, activation=activation))
        parts = {"attention.qkv": (4, 4, 4), "attention.out": (4,), "mlp.up": up, "mlp.down": (4,)}
        expected = {f"blocks.{i}.{name}.weight": rows for i in range(2) for name, rows in parts.items()}
        assert model.hidden_matrices() == expected


# Whole runs


@every("name", OPTIMIZERS)
def test_every_optimizer_trains_and_its_settings_repeat_the_run(flags, tmp_path, name):
    lr = {"sgd": "0.3", "lion": "0.003"}.get(name, "0.01")
    argv = [*flags, "--optimizer", name, "--lr", lr, "--schedule", "wsd", "--steps", "30", "--eval-every", "30"]
    assert terminal.run(train.main, [*argv, "--out", str(tmp_path / "a")]) == 0
    losses = [r["loss"] for r in records(tmp_path / "a")]
    assert losses[-1] < 0.9 * losses[0]
    saved = read_toml(tmp_path / "a" / "config.toml")["optim"]
    assert set(OPTIMIZERS[name]) | set(SCHEDULES["wsd"]) <= set(saved)
    again = ["--config", str(tmp_path / "a" / "config.toml"), "--steps", "30", "--out", str(tmp_path / "b")]
    assert terminal.run(train.main, again) == 0
    assert [r["loss"] for r in records(tmp_path / "b")] == losses


@every("name", ["adamw", "muon"])
def test_a_fused_run_has_the_same_weights_bit_for_bit(flags, tmp_path, name):
    argv = [*flags, "--optimizer", name, "--clip-norm", "0", "--dropout", "0.1"]
    for out, fused in (("a", "--no-fuse-optimizer"), ("b", "--fuse-optimizer")):
        assert terminal.run(train.main, [*argv, fused, "--out", str(tmp_path / out)]) == 0
    a, b = (records(tmp_path / out) for out in "ab")
    assert [r["loss"] for r in a] == [r["loss"] for r in b]
    assert [r["grad_norm"] for r in a] == pytest.approx([r["grad_norm"] for r in b], rel=1e-5)
    assert all(r["grad_norm"] > 0 for r in b)


def test_a_fused_run_that_diverges_says_so(flags, tmp_path, capsys):
    argv = [*flags, "--clip-norm", "0", "--fuse-optimizer", "--lr", "1e30", "--out", str(tmp_path / "x")]
    fails(train.main, argv, "training diverged at step 2, the gradient of blocks.0.", capsys)


def test_with_a_mean_of_weights_that_is_what_is_measured_and_saved(flags, tmp_path):
    """And training itself goes on from the weights."""
    argv = [*flags, "--lr", "0.01"]
    for out, decay in (("a", "0"), ("b", "0.9")):
        assert terminal.run(train.main, [*argv, "--ema-decay", decay, "--out", str(tmp_path / out)]) == 0
    a, b = (records(tmp_path / out) for out in "ab")
    assert [r["loss"] for r in a] == [r["loss"] for r in b]
    assert a[-1]["val_loss"] != b[-1]["val_loss"]
    model, _ = load_model(tmp_path / "b")
    plain, _ = load_model(tmp_path / "a")
    assert not np.array_equal(model.tokens.weight.data, plain.tokens.weight.data)


@every("name", OPTIMIZERS)
def test_the_estimate_of_memory_counts_what_each_optimizer_keeps(name):
    """The state of a model, number by number; adafactor's is counted by its temporaries, which are longer."""
    config = DecoderLMConfig(vocab_size=300, context_length=8, n_layers=2, n_heads=2, d_model=16, activation="swiglu")
    model = DecoderLM(config)
    optim = parse("--optimizer", name)
    optimizer = make_optimizer(optim, FlatParameters(model), model.hidden_matrices())
    held = sum(array.size for array in optimizer.state_dict().values()) - 1
    counted = count_moments(config, optim)
    assert held < 0.2 * counted if name == "adafactor" else held == counted
    bare, averaged, fused = (
        estimate_memory(config, 1, optim=parse("--optimizer", name, *more.split()))
        for more in ("", "--ema-decay 0.9", "--fuse-optimizer --clip-norm 0")
    )
    assert averaged - bare == 4 * 3 * model.n_parameters()
    assert bare - fused == 4 * (model.n_parameters() - model.tokens.weight.size)


def test_the_dry_run_shows_what_was_chosen(capsys):
    assert terminal.run(train.main, ["--optimizer", "muon", "--schedule", "wsd", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert 'optimizer = "muon"' in out
    assert f"muon_lr = {PRESETS['tiny'].optim.lr}" in out
    assert "decay_share = 0.2" in out
    assert "decay_power" not in out


def test_bounds_hold_for_options_that_may_be_none():
    assert msgspec.structs.replace(OptimConfig(), beta1=None).resolved(accumulate=1).beta1 == 0.9
    with pytest.raises(ValueError, match="--beta1: Expected `float` < 1"):
        parse("--beta1", "1")
    assert type(make_optimizer(parse(), FlatParameters(DecoderLM(DecoderLMConfig())))) is AdamW
