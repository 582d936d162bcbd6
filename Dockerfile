# Two images of one checkout. The gateway has no torch:  docker build --target gateway -t latentd-gateway .
# A worker for CUDA:                                      docker build --target worker -t latentd-worker .
# A worker for the CPU, whose torch is a tenth as large:  docker build --target worker \
#   --build-arg PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu -t latentd-worker-cpu .

FROM python:3.11.13-slim-bookworm AS base
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# The same number in both images, so that they can share a volume.
RUN groupadd --gid 10001 latentd \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin latentd \
    && install -d -o latentd -g latentd -m 0700 /data
WORKDIR /app

# What pip needs to install the package in place; the code follows later, so that a change of it installs nothing anew.
FROM base AS install
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY core/version.py core/
RUN python -m venv /opt/venv && mkdir contract jobs latentd models service workers

FROM install AS install-gateway
COPY deploy/requirements-gateway.txt ./
# Every archive by its hash (python -m deploy.requirements); the package itself is in /app.
RUN /opt/venv/bin/pip install --require-hashes --no-deps -r requirements-gateway.txt \
    && /opt/venv/bin/pip install --no-deps --no-build-isolation -e .
# Of each model its card and its tokenizer: the gateway counts tokens and never reads weights.
COPY models/weights /weights
RUN find /weights -type f ! -name card.json ! -name tokenizer.json -delete

FROM install AS install-worker
ARG PIP_EXTRA_INDEX_URL
COPY deploy/requirements-worker.txt ./
# torch's build, and with it the GPU's libraries, is the choice of pip's configuration, and has no hash here.
RUN /opt/venv/bin/pip install --require-hashes --no-deps -r requirements-worker.txt \
    && /opt/venv/bin/pip install -c constraints.txt torch \
    && /opt/venv/bin/pip install --no-deps --no-build-isolation -e '.[worker]'

FROM base AS gateway
COPY --from=install-gateway /opt/venv /opt/venv
COPY --from=install-gateway /weights models/weights
COPY clients clients
COPY contract contract
COPY core core
COPY jobs jobs
COPY latentd latentd
COPY service service
ENV PATH=/opt/venv/bin:$PATH LATENTD_DATA_DIR=/data
USER 10001:10001
EXPOSE 8000 9100
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
CMD ["latentd", "gateway"]

FROM base AS worker
# Triton builds with it what fuses a UNet's kernels; without it they run one by one.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
COPY --from=install-worker /opt/venv /opt/venv
COPY clients clients
COPY contract contract
COPY core core
COPY jobs jobs
COPY latentd latentd
COPY service service
COPY models models
COPY workers workers
# `utility` is NVML, which the metrics of the GPU come from.
ENV PATH=/opt/venv/bin:$PATH LATENTD_DATA_DIR=/data NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
EXPOSE 9101
HEALTHCHECK --interval=10s --timeout=5s --start-period=30m \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:9101/metrics', timeout=4)"]
CMD ["latentd", "worker", "--metrics-port", "9101"]
