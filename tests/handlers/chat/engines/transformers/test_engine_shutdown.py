"""How an engine ends: everybody who waits for it is told."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from handlers.chat.engines.transformers.engine import BatchingEngine
from handlers.chat.engines.transformers.load import ChatModel
from shared.errors import Cancelled, DeviceError, JobError
from shared.jobs.execution.cancel import CancelToken
from tests.handlers.chat.engine_fixtures import (
    ENDLESS,
    WORDS,
    answer,
    ask,
    engine_of,
    own_copy,
    together,
)


def test_when_the_engine_fails_everybody_is_told_and_the_worker_is_replaced(tiny_models: Path) -> None:
    model = own_copy(tiny_models)
    with engine_of(model) as engine:
        passes = 0

        def fails(_module: object, _args: object) -> None:
            nonlocal passes
            passes += 1
            if passes > 12:
                raise RuntimeError("CUDA error: an illegal memory access was encountered")

        model.model.register_forward_pre_hook(fails)
        ends = together(engine, [ask(words, max_tokens=200) for words in WORDS])
        assert [type(end) for end in ends] == [DeviceError] * len(WORDS)
        assert all(end.replaces_worker for end in ends if isinstance(end, JobError))
        with pytest.raises(DeviceError):
            engine.start(ask(), CancelToken(60))


def test_when_the_engine_fails_while_it_reads_those_who_are_read_are_told(tiny_models: Path) -> None:
    model = own_copy(tiny_models)

    def fails(_module: object, _args: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def read(engine: BatchingEngine) -> None:
        with pytest.raises(DeviceError):
            answer(engine, ask())

    with engine_of(model) as engine:
        model.model.register_forward_pre_hook(fails)
        reader = threading.Thread(target=read, args=(engine,), daemon=True)  # a test that fails does not wait for it
        reader.start()
        reader.join(20)
        assert not reader.is_alive(), "nobody has told who waits"


def test_an_engine_that_is_closed_ends_what_it_writes_and_takes_nothing_more(instruct: ChatModel) -> None:
    with engine_of(instruct) as engine:
        with engine.start(ENDLESS, CancelToken(60)) as stream:
            pieces = iter(stream)
            next(pieces)
            engine.close()
            with pytest.raises(Cancelled):
                list(pieces)
        with pytest.raises(Cancelled):
            engine.start(ask(), CancelToken(60))


def test_a_process_that_ends_while_it_writes_ends_well(tiny_models: Path) -> None:
    program = """if True:
        import sys
        from pathlib import Path

        from handlers.chat.engines.transformers.engine import BatchingEngine
        from handlers.chat.engines.transformers.chat_format import Source
        from shared.jobs.execution.cancel import CancelToken
        from handlers.chat.engines.transformers.load import load_chat
        from tests.handlers.chat.engine_fixtures import CPU, ask

        model = load_chat(Path(sys.argv[1]), CPU, __import__("torch").float32)
        engine = BatchingEngine([Source("qwen_instruct", lambda: model)])
        next(iter(engine.start(ask(max_tokens=1900, repetition_penalty=0.5), CancelToken(60))))
    """
    done = subprocess.run([sys.executable, "-c", program, tiny_models / "qwen_instruct"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
