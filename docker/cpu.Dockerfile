# syntax=docker/dockerfile:1
# The embedded stack (`make serve`) in one container, for machines without a GPU: tritonserver, vLLM's CPU build,
# Valkey and the gateway, installed from the same lock. Build context: the project's root.
ARG PYTHON=3.11.14
FROM python:${PYTHON}-slim-bookworm

# vLLM's CPU library is linked against libnuma. A pinned version would vanish from Debian's mirrors with its first
# security fix.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends libnuma1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /var/lib/trireme --create-home trireme

ENV PIP_NO_CACHE_DIR=1
WORKDIR /opt/trireme
COPY pyproject.toml requirements.lock README.md ./
COPY deploy/embedded.yaml deploy/embedded.yaml
COPY trireme trireme
COPY control_plane control_plane
COPY gateway gateway
COPY python_backends python_backends
COPY model_repository model_repository
RUN python -m trireme.bootstrap

USER 10001
# Everything that is ever written: models, keys, ledger, logs. The gateway listens for the outside, all else does not.
ENV PATH=/opt/trireme/.venv/bin:$PATH \
    TRIREME_STATE_DIR=/var/lib/trireme \
    TRIREME_HOST=0.0.0.0
VOLUME /var/lib/trireme
EXPOSE 8080
# The first start prepares the models, and vLLM needs half a minute on most machines.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10m --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8080/health/ready', timeout=4)"]
CMD ["trireme", "serve"]
