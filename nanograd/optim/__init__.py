"""Optimizers on flat buffers, schedules as plain functions of the step."""

from nanograd.optim.adamw import AdamW
from nanograd.optim.clip import NonFiniteGradientError, clip_grad_norm, clip_scale, grad_norm
from nanograd.optim.flat import FlatParameters
from nanograd.optim.schedule import warmup_cosine
