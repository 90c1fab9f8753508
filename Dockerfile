# One file, three images: docker build --build-arg HANDLER=sdxl|wan|chat .
# torch's CUDA wheels bring the CUDA libraries, so a CUDA base image would only double them.
FROM python:3.11-slim

ARG HANDLER=sdxl
ENV HANDLER=${HANDLER} PYTHONUNBUFFERED=1 RUNPOD_LOG_LEVEL=INFO
WORKDIR /app

# Dependencies first: code changes more often.
COPY builder/requirements builder/requirements
RUN pip install --no-cache-dir torch==2.13.0 && pip install --no-cache-dir -r builder/requirements/${HANDLER}.txt

COPY shared shared
COPY handlers handlers
COPY handlers/${HANDLER}/test_input.json test_input.json

# A shell only to read the variable; exec makes Python the process that gets RunPod's signals.
CMD ["sh", "-c", "exec python -u -m handlers.${HANDLER}.handler"]
