"""The table of contents. Every operation nanograd can differentiate is named here."""

from nanograd.ops.elementwise import (
    add,
    cast,
    div,
    erf,
    exp,
    log,
    maximum,
    minimum,
    mul,
    neg,
    power,
    sigmoid,
    sqrt,
    sub,
    tanh,
    where,
)
