"""Engine failure and shutdown: every stream is ended, so that no consumer blocks."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from handlers.chat.engines.transformers.engine import TransformersEngine
from handlers.chat.engines.transformers.load import ChatModel
from shared.errors import Cancelled, DeviceError, JobError
from shared.jobs.execution.cancel import CancelToken
from tests.handlers.chat.engine_fixtures import (
    ENDLESS,
    WORDS,
    ask,
    complete,
    complete_concurrently,
    engine_of,
    load_copy,
)


def test_an_engine_failure_fails_every_sequence_and_replaces_the_worker(tiny_models: Path) -> None:
    model = load_copy(tiny_models)
    with engine_of(model) as engine:
        passes = 0

        def fail(_module: object, _args: object) -> None:
            nonlocal passes
            passes += 1
            if passes > 12:
                raise RuntimeError("CUDA error: an illegal memory access was encountered")

        model.model.register_forward_pre_hook(fail)
        ends = complete_concurrently(engine, [ask(words, max_tokens=200) for words in WORDS])
        assert [type(end) for end in ends] == [DeviceError] * len(WORDS)
        assert all(end.replaces_worker for end in ends if isinstance(end, JobError))
        with pytest.raises(DeviceError):
            engine.submit(ask(), CancelToken(60))


def test_an_engine_failure_during_prefill_fails_the_sequences_in_prefill(tiny_models: Path) -> None:
    model = load_copy(tiny_models)

    def fail(_module: object, _args: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def consume(engine: TransformersEngine) -> None:
        with pytest.raises(DeviceError):
            complete(engine, ask())

    with engine_of(model) as engine:
        model.model.register_forward_pre_hook(fail)
        consumer = threading.Thread(target=consume, args=(engine,), daemon=True)  # must not block a failing test
        consumer.start()
        consumer.join(60)
        assert not consumer.is_alive(), "the stream was not ended"


def test_closing_the_engine_cancels_running_sequences_and_rejects_new_ones(instruct: ChatModel) -> None:
    with engine_of(instruct) as engine:
        with engine.submit(ENDLESS, CancelToken(60)) as stream:
            deltas = iter(stream)
            next(deltas)
            engine.close()
            with pytest.raises(Cancelled):
                list(deltas)
        with pytest.raises(Cancelled):
            engine.submit(ask(), CancelToken(60))


def test_a_process_can_exit_while_a_sequence_is_running(tiny_models: Path) -> None:
    program = """if True:
        import sys
        from pathlib import Path

        from handlers.chat.engines.transformers.engine import TransformersEngine
        from handlers.chat.engines.transformers.chat_format import ModelSpec
        from shared.jobs.execution.cancel import CancelToken
        from handlers.chat.engines.transformers.load import load_chat
        from tests.handlers.chat.engine_fixtures import CPU, ask

        model = load_chat(Path(sys.argv[1]), CPU, __import__("torch").float32)
        engine = TransformersEngine([ModelSpec("qwen_instruct", lambda: model)])
        next(iter(engine.submit(ask(max_tokens=1900, repetition_penalty=0.5), CancelToken(60))))
    """
    done = subprocess.run([sys.executable, "-c", program, tiny_models / "qwen_instruct"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
