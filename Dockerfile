# One file for the images of all handlers: docker build --build-arg HANDLER=sdxl|wan|chat .
# torch's CUDA wheels contain the CUDA libraries, so a CUDA base image would only duplicate them; PyAV contains the video encoder.
ARG BASE_IMAGE=python:3.11-slim-bookworm

# Dependencies first, because they are the largest and change the least. Packages that all handlers need are one shared layer.
FROM ${BASE_IMAGE} AS dependencies
# Which lock file of torch: cu128 for hosts with CUDA 12.8 and newer, cu130 for 13.0 and newer, cpu for tests.
ARG TORCH=cu128
WORKDIR /app
COPY builder/requirements/torch-${TORCH}.txt builder/requirements/shared.txt requirements/
# Lock files are complete, so nothing else is resolved. torchvision is left out on purpose: see builder/lock_requirements.py.
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --no-deps --requirement requirements/torch-${TORCH}.txt \
    && pip install --no-deps --requirement requirements/shared.txt
ARG HANDLER=sdxl
COPY builder/requirements/${HANDLER}.txt requirements/
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --no-deps --requirement requirements/${HANDLER}.txt \
    && { pip check > /tmp/check || true; } \
    && ! grep --invert-match --extended-regexp '^No broken|^spandrel .* requires torchvision,' /tmp/check \
    && rm /tmp/check

# Weights, or an empty folder. This stage contains only the download code, so that other code changes do not invalidate its cache.
FROM dependencies AS weights
ARG HANDLER=sdxl
ARG WEIGHTS=none
# Names of catalogue entries, or a handler for all of its weights.
ARG MODELS=${HANDLER}
# Features whose add-ons are baked too, as `--with` takes them.
ARG ADDONS=none
ARG HF_ENDPOINT=https://huggingface.co
WORKDIR /code
COPY shared/__init__.py shared/credentials.py shared/device_settings.py shared/settings.py shared/storage_settings.py shared/telemetry.py shared/trace_context.py shared/tracing_settings.py shared/
COPY shared/weights shared/weights
COPY builder/__init__.py builder/command_line.py builder/download_weights.py builder/
COPY builder/weights/__init__.py builder/weights/addons.py builder/weights/checkpoint.py builder/weights/
# The Hub token is a build secret and remains in no layer. Fixed timestamps make layers of equal files identical.
# hadolint ignore=SC2086
RUN --mount=type=secret,id=hf_token \
    mkdir -p /opt/models \
    && if [ "${WEIGHTS}" = baked ]; then \
         if [ "${ADDONS}" = none ]; then features=; else features="--with ${ADDONS}"; fi; \
         HF_TOKEN_PATH=/run/secrets/hf_token python -m builder.download_weights ${MODELS} ${features} --to /opt/models; \
       fi \
    && find /opt/models -exec touch --no-dereference --date=@0 {} +

# The code of one handler, checked together with its dependencies and its weights.
FROM weights AS code
ARG HANDLER=sdxl
ARG WEIGHTS=none
COPY shared shared
COPY handlers/__init__.py handlers/
COPY handlers/${HANDLER} handlers/${HANDLER}
RUN cp handlers/${HANDLER}/test_input.json test_input.json \
    && if [ "${WEIGHTS}" = baked ]; then scope=weights; else scope=image; fi \
    && python -m handlers.${HANDLER}.handler --check "${scope}" \
    && python -m compileall -q --invalidation-mode unchecked-hash . \
    && find . -exec touch --date=@0 {} +

# The chat worker with vLLM: docker build --target chat-vllm. vLLM has the only torch, in an environment of its own.
FROM ${BASE_IMAGE} AS vllm
WORKDIR /app
# Triton compiles a module of its own when it is first used.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
COPY builder/requirements/chat-vllm.txt requirements/
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv /opt/vllm \
    && /opt/vllm/bin/pip install --require-hashes --requirement requirements/chat-vllm.txt \
    && /opt/vllm/bin/pip check

FROM vllm AS chat-vllm
ARG VERSION=0.1.0
ARG RUN_AS=root
LABEL org.opencontainers.image.title="gpu-handlers chat-vllm" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="MIT"
COPY builder/requirements/chat.txt requirements/
# Complete, but for torch, which only accelerate would ask for.
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --no-deps --requirement requirements/chat.txt
# FlashInfer's sampler is compiled by nvcc at the start, which this image does not have.
ENV CHAT_ENGINE=vllm \
    VLLM_USE_FLASHINFER_SAMPLER=0 \
    PYTHONUNBUFFERED=1 \
    RUNPOD_LOG_LEVEL=INFO \
    HF_HUB_OFFLINE=1 \
    TRANSFORMERS_OFFLINE=1
COPY shared shared
COPY handlers/__init__.py handlers/
COPY handlers/chat handlers/chat
RUN useradd --create-home worker \
    && chown worker /app \
    && cp handlers/chat/test_input.json test_input.json \
    && python -m handlers.chat.handler --check image \
    && python -m compileall -q --invalidation-mode unchecked-hash .
USER ${RUN_AS}
CMD ["python", "-u", "-m", "handlers.chat.handler"]

FROM dependencies
ARG HANDLER=sdxl
# SDXL and WAN are compiled for the GPU, and Triton compiles a launcher in C for each kernel, against Python's headers.
# hadolint ignore=DL3008
RUN if [ "${HANDLER}" != chat ]; then \
      apt-get update \
      && apt-get install --yes --no-install-recommends gcc libc6-dev \
      && rm -rf /var/lib/apt/lists/* /var/log/apt /var/log/dpkg.log /var/cache/ldconfig/aux-cache; \
    fi
ARG VERSION=0.1.0
# `worker` for an unprivileged user, if nothing is written to a network volume, which is owned by root.
ARG RUN_AS=root
LABEL org.opencontainers.image.title="gpu-handlers ${HANDLER}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="MIT"
# Fixed mmap and trim thresholds: glibc otherwise raises them dynamically and retains several clips' worth of freed frames
# (benchmarks/clip_memory.py). MALLOC_ARENA_MAX: it otherwise creates up to eight arenas per CPU, each retaining its free memory, and
# every job has threads of its own.
ENV HANDLER=${HANDLER} \
    PYTHONUNBUFFERED=1 \
    RUNPOD_LOG_LEVEL=INFO \
    HF_HUB_OFFLINE=1 \
    TRANSFORMERS_OFFLINE=1 \
    MALLOC_MMAP_THRESHOLD_=131072 \
    MALLOC_TRIM_THRESHOLD_=131072 \
    MALLOC_ARENA_MAX=2
RUN useradd --create-home worker && chown worker /app
COPY --from=weights /opt/models /opt/models
USER ${RUN_AS}
# The shell only expands the variable; exec makes Python the process that receives RunPod's signals.
CMD ["sh", "-c", "exec python -u -m handlers.${HANDLER}.handler"]
# Code last, because it is small and changes the most.
COPY --from=code /code /app
