"""A training step as one launch: on a GPU a CUDA graph of it is recorded and then replayed. Eagerly
a step is about a thousand launches, which take the host longer than the GPU needs to compute it.
"""

import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Final

import torch
from torch import Tensor

from fdan.files import first_line

Function = Callable[..., Tensor]
Call = Callable[[], Tensor]
Shapes = tuple[torch.Size, ...]

_EAGER: Final = 2
"""Calls before the recording: in the first, momentum buffers and libraries' workspaces are made."""

_log = logging.getLogger(__name__)


def make_graphed(function: Function, device: torch.device) -> Function:
    """`function` itself on the CPU; on a GPU one that records it.

    Args:
        function: Function as GraphedFunction wants it.
        device: Device of its tensors. Its calls come inside `side_stream`.
    """
    if device.type != "cuda":
        return function
    return GraphedFunction(function, _CudaGraphs(device).record)


@contextmanager
def side_stream(device: torch.device) -> Iterator[None]:
    """On a GPU, work inside queues on another stream: the default one cannot be recorded."""
    if device.type != "cuda":
        yield
        return
    own, before = _stream(device), torch.cuda.current_stream(device)
    own.wait_stream(before)
    try:
        with torch.cuda.stream(own):
            yield
    finally:
        before.wait_stream(own)


class GraphedFunction:
    """A function of tensors, recorded once for each combination of input shapes, then replayed.

    The function must do the same work each time, whatever the numbers are, and change in place
    what lasts from call to call. What it returns holds until the next call. If it cannot be
    recorded, it runs on eagerly, and the log says once why.
    """

    def __init__(self, function: Function, record: Callable[[Call], Call]) -> None:
        """record: turns a call into one that does the same work each time that it is called."""
        self._function, self._record = function, record
        self._calls: Counter[Shapes] = Counter()
        self._recorded: dict[Shapes, tuple[tuple[Tensor, ...], Call]] = {}
        self._fails = False

    def __call__(self, *inputs: Tensor) -> Tensor:
        shapes = tuple(tensor.shape for tensor in inputs)
        if shapes not in self._recorded:
            self._calls[shapes] += 1
            if self._fails or self._calls[shapes] <= _EAGER:
                return self._function(*inputs)
            # Own tensors, since a recording reads from where it read when it was made.
            places = tuple(tensor.clone() for tensor in inputs)
            try:
                self._recorded[shapes] = places, self._record(lambda: self._function(*places))
            except RuntimeError as error:  # torch raises it for all that CUDA refuses
                self._fails = True
                # What broke the recording, not its end.
                _warn(first_line(error.__context__ or error))
                return self._function(*inputs)
        places, replay = self._recorded[shapes]
        for place, tensor in zip(places, inputs, strict=True):
            place.copy_(tensor)
        return replay()


class _CudaGraphs:
    """One function's graphs, which share memory: only one runs at a time, and none leaves anything
    in it for another."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, call: Call) -> Call:
        """Nothing is computed before the first replay."""
        graph = torch.cuda.CUDAGraph()
        try:
            stream = torch.cuda.current_stream(self._device)
            with torch.cuda.graph(graph, pool=self._pool, stream=stream):
                out = call()
        except RuntimeError:
            # Before pytorch#180395 torch forgets this when a recording breaks off: its allocator
            # takes it as still going on and frees nothing any more. Later versions refuse the
            # calls; before 2.8 they have other names, and the run goes on with what that leaves.
            with contextlib.suppress(RuntimeError, AttributeError):
                torch._C._cuda_endAllocateToPool(self._device.index, self._pool)
                torch._C._cuda_releasePool(self._device.index, self._pool)
            raise

        def replay() -> Tensor:
            graph.replay()
            return out

        return replay


@cache
def _warn(reason: str) -> None:
    """Once in a process, however many runs it trains."""
    _log.warning("training steps are not recorded as a CUDA graph, which is slower: %s", reason)


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """The stream of all runs of a process, so that the next run reuses the memory of the last."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
