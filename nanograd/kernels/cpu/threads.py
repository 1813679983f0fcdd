"""One function, called for many task numbers on all threads: Numba's prange at a fraction of its compile time.

For a loop in prange Numba compiles the function around it, its body once more as another kind of function, and a
wrapper between the two, each with everything they call: half of all the seconds spent on compiling. Here the body is
an ordinary compiled function of a task number, and the call that hands it to the threads is written in LLVM's words.
The threads are Numba's (OpenMP's where there is OpenMP), started and counted by Numba: set_num_threads holds.
"""

from typing import Any

import numba
from llvmlite import ir

from nanograd.kernels.cpu.avx512 import I32, I64, cgutils, instructions, number, types

_BYTES = ir.IntType(8).as_pointer()
_CALLBACK = ir.FunctionType(ir.VoidType(), [_BYTES.as_pointer(), I64.as_pointer(), I64.as_pointer(), _BYTES])
numba.get_num_threads()  # starts the threads: compiled code from the disk looks for them by name


def _for_each(typing_context: Any, task: Any, n: Any, arguments: Any) -> Any:
    """task(i, *arguments) for i in 0 … n − 1, in any order, on as many threads as Numba may use now; returns nothing.

    To be called inside a kernel. task is a compiled function (njit), arguments a tuple. With one thread, or one task,
    this thread does it all. Raises MemoryError if a task could not get its memory.
    """
    signature = task.get_call_type(typing_context, (types.intp, *arguments.types), {})
    compiled = task.dispatcher.overloads[signature.args]

    def generate(context: Any, builder: ir.IRBuilder, _: Any, values: Any) -> Any:
        context.active_code_library.add_linking_library(compiled.library)
        _, n, packed = values
        shared = cgutils.alloca_once_value(builder, cgutils.pack_struct(builder, [packed, ir.Constant(I32, 0)]))
        callback = _callback(context, builder.module, compiled.fndesc, shared.type)
        _hand_out(builder, callback, n, builder.bitcast(shared, _BYTES))
        failed = builder.load(cgutils.gep_inbounds(builder, shared, 0, 1))
        with cgutils.if_unlikely(builder, cgutils.is_not_null(builder, failed)):
            context.call_conv.return_user_exc(builder, MemoryError, ("a kernel ran out of memory",))
        return context.get_dummy_value()

    return types.void(task, n, arguments), generate


for_each: Any = instructions(_for_each)


def _callback(context: Any, module: ir.Module, task: Any, shared: Any) -> ir.Function:
    """void(first task number, how many, its step, what is shared), as Numba's threads call it."""
    function = ir.Function(module, _CALLBACK, module.get_unique_name(f"{task.mangled_name}.tasks"))
    function.linkage = "internal"
    builder = ir.IRBuilder(function.append_basic_block())
    start, count, step, data = function.args
    data = builder.bitcast(data, shared)
    values = cgutils.unpack_tuple(builder, builder.load(cgutils.gep_inbounds(builder, data, 0, 0)))
    first = builder.ptrtoint(builder.load(start), I64)
    with cgutils.for_range(builder, builder.load(count)) as loop:
        i = builder.add(first, builder.mul(loop.index, builder.load(step)))
        callee = context.declare_function(module, task)
        status, _ = context.call_conv.call_function(builder, callee, task.restype, task.argtypes, [i, *values])
        with cgutils.if_unlikely(builder, status.is_error):
            builder.store(ir.Constant(I32, 1), cgutils.gep_inbounds(builder, data, 0, 1))
    builder.ret_void()
    return function


def _hand_out(builder: ir.IRBuilder, callback: ir.Function, n: Any, data: Any) -> None:
    """Call `callback` on all threads; in this one alone if there is no other, or nothing to share."""
    start = cgutils.alloca_once_value(builder, ir.Constant(_BYTES, None))
    count, step = cgutils.alloca_once_value(builder, n), cgutils.alloca_once_value(builder, number(1))
    threads = builder.call(_declared(builder.module, "get_num_threads", I64, []), [])
    alone = builder.or_(builder.icmp_signed("<=", threads, number(1)), builder.icmp_signed("<=", n, number(1)))
    with builder.if_else(alone) as (here, everywhere):
        with here:
            builder.call(callback, [start, count, step, data])
        with everywhere:
            pointers = [builder.bitcast(value, _BYTES) for value in (callback, start, count, step)]
            kinds = [_BYTES] * 5 + [I64] * 3
            parallel_for = _declared(builder.module, "numba_parallel_for", ir.VoidType(), kinds)
            builder.call(parallel_for, [*pointers, data, number(0), number(1), threads])


def _declared(module: ir.Module, name: str, result: Any, kinds: list[Any]) -> ir.Function:
    return cgutils.get_or_insert_function(module, ir.FunctionType(result, kinds), name)
