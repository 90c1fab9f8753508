# One file, three images: docker build --build-arg HANDLER=sdxl|wan|chat .
# torch's CUDA wheels bring the CUDA libraries, so a CUDA base image would only double them; PyAV brings the video encoder.
ARG BASE_IMAGE=python:3.11-slim-bookworm

# Dependencies first, because they weigh the most and change the least. What all handlers need is one layer, the same in all images.
FROM ${BASE_IMAGE} AS dependencies
# What pip installs as torch. Another build of it: TORCH="torch==2.13.0 --index-url ...".
ARG TORCH=torch==2.13.0
WORKDIR /app
COPY builder/requirements/shared.txt requirements/
# hadolint ignore=SC2086
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint requirements/shared.txt ${TORCH} \
    && pip install --requirement requirements/shared.txt
ARG HANDLER=sdxl
COPY builder/requirements/${HANDLER}.txt requirements/
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --requirement requirements/${HANDLER}.txt \
    && pip check

# Weights, or an empty folder. Only the code that downloads them is here, so that other code does not repeat the download.
FROM dependencies AS weights
ARG HANDLER=sdxl
ARG WEIGHTS=none
# Names of the catalogue, or a handler for all that it uses.
ARG MODELS=${HANDLER}
ARG HF_ENDPOINT=https://huggingface.co
WORKDIR /code
COPY shared/__init__.py shared/credentials.py shared/settings.py shared/telemetry.py shared/
COPY shared/weights shared/weights
COPY builder/__init__.py builder/command_line.py builder/download_weights.py builder/
COPY builder/weights/__init__.py builder/weights/checkpoint.py builder/weights/
# The hub's token comes as a build secret and stays in no layer. Equal times make equal layers of equal files.
# hadolint ignore=SC2086
RUN --mount=type=secret,id=hf_token \
    mkdir -p /opt/models \
    && if [ "${WEIGHTS}" = baked ]; then \
         HF_TOKEN_PATH=/run/secrets/hf_token python -m builder.download_weights ${MODELS} --to /opt/models; \
       fi \
    && find /opt/models -exec touch --no-dereference --date=@0 {} +

# The code of one handler, checked beside its dependencies and its weights.
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

FROM dependencies
ARG HANDLER=sdxl
ARG VERSION=0.1.0
# `worker` where nothing has to be written to a network volume, which belongs to root.
ARG RUN_AS=root
LABEL org.opencontainers.image.title="gpu-handlers ${HANDLER}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="MIT"
# Without the two thresholds glibc keeps more the larger what it has given out, some clips' worth of frames (benchmarks/clip_memory.py).
# Without the third it makes up to eight heaps for each CPU, of which each keeps what is free in it, and each job has threads of its own.
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
# A shell only to read the variable; exec makes Python the process that gets RunPod's signals.
CMD ["sh", "-c", "exec python -u -m handlers.${HANDLER}.handler"]
# Code last: it is small, and changes the most.
COPY --from=code /code /app
