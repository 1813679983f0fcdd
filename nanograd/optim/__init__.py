"""Optimizers on flat buffers, schedules as plain functions of the step."""

from nanograd.optim.adafactor import Adafactor
from nanograd.optim.adamw import Adam, AdamW
from nanograd.optim.average import Averaged
from nanograd.optim.clip import NonFiniteGradientError, clip_grad_norm, clip_scale, grad_norm
from nanograd.optim.flat import FlatParameters
from nanograd.optim.fused import FusedIntoBackward
from nanograd.optim.lion import Lion
from nanograd.optim.muon import Muon
from nanograd.optim.newton_schulz import orthogonalize
from nanograd.optim.optimizer import Optimizer
from nanograd.optim.schedule import learning_rate, warmup_cosine
from nanograd.optim.sgd import SGD
