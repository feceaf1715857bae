# syntax=docker/dockerfile:1
# Triton with vLLM on NVIDIA GPUs: NVIDIA's own image, our models and the code behind them. Build context: the
# project's root.
ARG TRITON=26.07
FROM nvcr.io/nvidia/tritonserver:${TRITON}-vllm-python-py3

WORKDIR /opt/trireme
COPY python_backends python_backends
COPY model_repository model_repository
COPY requirements.lock ./
# A .pth file, since Triton's Python stub ignores PYTHONPATH. Of packages, only one that needs no others is installed: all
# else that python_backends imports comes with vLLM, and another numpy, torch or tokenizers would not fit the one in
# this image. The last command fails the build when that is not so, or when the image's vLLM is not among the versions
# that we know.
RUN pip install --no-cache-dir --no-deps --constraint requirements.lock jsonschema-rs \
    && echo /opt/trireme > "$(python3 -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/trireme.pth" \
    && python3 -I -c "from importlib.metadata import version; \
        import numpy, prometheus_client, transformers; \
        import python_backends.embedding.worker, python_backends.llm.scripted, python_backends.postprocessing.stream; \
        import python_backends.preprocessing.plan; \
        from python_backends.llm.vllm_engine import check_version; \
        check_version(version('vllm'))"

# NVIDIA's user `triton-server`. Kernels that vLLM compiles are kept below $HOME.
RUN install -d -o 1000 -g 1000 /var/cache/trireme
USER 1000:1000
ENV HOME=/var/cache/trireme \
    VLLM_NO_USAGE_STATS=1 \
    DO_NOT_TRACK=1 \
    HF_HUB_OFFLINE=1
VOLUME /var/cache/trireme
EXPOSE 8000 8001 8002
# Big models load for many minutes. Ready here means loaded; the gateway asks for a real token besides.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30m --retries=3 \
    CMD ["python3", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/v2/health/ready', timeout=4)"]
CMD ["tritonserver", \
    "--model-repository=/opt/trireme/model_repository", \
    "--model-control-mode=explicit", \
    "--strict-readiness=false", \
    "--load-model=*", \
    "--exit-on-error=true", \
    "--allow-metrics=true", \
    "--http-port=8000", \
    "--grpc-port=8001", \
    "--metrics-port=8002"]
