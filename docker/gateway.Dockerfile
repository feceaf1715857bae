# syntax=docker/dockerfile:1
# Gateway and control plane, which are two commands of one image: no torch, no vLLM, no Triton. Build context: the project's root.
ARG PYTHON=3.11.14
FROM python:${PYTHON}-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1
WORKDIR /src
COPY pyproject.toml requirements.lock README.md ./
# pyproject.toml says what the gateway needs, the lock says in which version.
RUN python -m venv /opt/trireme \
    && /opt/trireme/bin/pip install --constraint requirements.lock setuptools wheel
COPY gateway gateway
COPY control_plane control_plane
# Of the model code only what both sides share (docs/adr/0003-shared-preprocessing.md).
COPY python_backends/__init__.py python_backends/messages.py python_backends/
COPY python_backends/adapters python_backends/adapters
COPY python_backends/grammar python_backends/grammar
COPY python_backends/preprocessing python_backends/preprocessing
# The command `trireme` belongs to the embedded stack, which is not here.
RUN /opt/trireme/bin/pip install --no-build-isolation --constraint requirements.lock . \
    && rm /opt/trireme/bin/trireme \
    && mkdir /spool

FROM python:${PYTHON}-slim-bookworm
RUN useradd --system --uid 10001 --no-create-home trireme
COPY --from=build /opt/trireme /opt/trireme
# The ledger's entries while Valkey is away: mount a volume here that outlives the container.
COPY --from=build --chown=10001 /spool /var/spool/trireme
USER 10001
ENV PATH=/opt/trireme/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    TRIREME_HOST=0.0.0.0 \
    TRIREME_SPOOL_DIR=/var/spool/trireme
EXPOSE 8080
# Alive, not ready: a backend that is away is no reason to restart the gateway.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8080/health/live', timeout=4)"]
CMD ["python", "-m", "gateway"]
