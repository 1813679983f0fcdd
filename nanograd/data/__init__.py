"""Floor 5. From token files to batches.

THE idea: **batch i is a function of (seed, i) and of nothing that happened before.** No loader state is saved, a run
that goes on at step n asks for batch n; threads can make batches ahead in any order; two runs with one seed see the
same text. Everything here is built so that a division finds the place: an epoch deals the same number of rows each
time, every 1,024 draws from a mixture hold the same share of each text, and what chance decides within an epoch is
drawn from a stream that has the epoch's name.

    token_reader    ids on disk, checked as they are read     (pre_process)
    packing         where documents lie; best fit into rows of T
    layouts         windows | packed | padded: rows, and their order in an epoch
    mixture         which text comes next
    batches         rows → inputs, targets (the one shift), borders, padding
    prefetch        threads that make the next batches
"""

from nanograd.data.batches import NO_TARGET, Batch, LayoutName, TrainingBatches, validation_batches
from nanograd.data.layouts import DataError
from nanograd.data.prefetch import Prefetch
from pre_process.token_reader import open_reader
from pre_process.token_shards import open_tokens
