# syntax=docker/dockerfile:1
# bt-plugin with CUDA and DALI. docs/docker.md explains it.
#
#   docker build --tag bt-plugin .
#   docker run --init --gpus all --volume "$PWD:/work" bt-plugin pretrain quickstart
FROM python:3.13-slim-trixie

# Triton and torch.compile call a compiler while the program runs.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ libc6-dev \
    && rm -rf /var/lib/apt/lists/*

RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH

# Extras of pyproject.toml, such as "cuda12,demo,parquet,s3,timm".
ARG EXTRAS=cuda13,demo,timm

# This layer holds gigabytes. It depends on pyproject.toml alone, so a change of the code does not rebuild it.
WORKDIR /tmp/dependencies
COPY pyproject.toml .
RUN --mount=type=cache,target=/root/.cache/pip \
    mkdir bt_plugin dali_pipelines recipes \
    && touch README.md \
    && echo '__version__ = "0"' > bt_plugin/version.py \
    && pip install "./[$EXTRAS]" \
    && pip uninstall --yes bt-plugin

RUN --mount=type=bind,target=/tmp/bt-plugin \
    --mount=type=cache,target=/root/.cache/pip \
    pip install --no-deps /tmp/bt-plugin

# All caches are in the home directory. Any user may write there, so that `docker run --user` works. torch asks for the
# name of the user, and such a user has none but $USER.
RUN useradd --uid 1000 --create-home bt \
    && chmod 1777 /home/bt \
    && install --directory --owner bt --mode 1777 /work
ENV HOME=/home/bt \
    USER=bt \
    TORCHINDUCTOR_CACHE_DIR=/home/bt/.cache/torchinductor \
    PYTHONUNBUFFERED=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility,video
USER 1000
WORKDIR /work
ENTRYPOINT ["bt-plugin"]
CMD ["--help"]
