# The meter as an image: the proxy, its console, nothing else. Prometheus, Redis and Grafana are images of their own.
# Dependencies come first and with hashes, so that a change of the code does not fetch them again and nobody can swap one.
# The base has a name and no digest, because nobody could look one up where this was written; to pin it:
#   docker build --build-arg BASE=python:3.11-slim-bookworm@sha256:... .
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1

WORKDIR /src
COPY requirements.txt ./
RUN python -m venv /opt/deepseek-meter \
    && /opt/deepseek-meter/bin/pip install --require-hashes -r requirements.txt
COPY pyproject.toml README.md ./
COPY proxy ./proxy
# Built by the setuptools of the step before: by itself pip would fetch one, of any version and without a hash.
RUN /opt/deepseek-meter/bin/pip install --no-deps --no-build-isolation --no-index .

FROM ${BASE}

# A number, so that Kubernetes can tell it is not root. The data directory holds journals: mount a volume that lasts.
RUN groupadd --gid 10001 meter \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin meter \
    && install -d -o meter -g meter -m 0700 /data
COPY --from=build /opt/deepseek-meter /opt/deepseek-meter
USER 10001:10001
WORKDIR /data
VOLUME ["/data"]

# A gateway that listened on the container's loopback would serve nobody. The console stays there until it has a token.
ENV PATH=/opt/deepseek-meter/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    METER_STORE_DATA_DIR=/data \
    METER_GATEWAY_LISTEN=0.0.0.0:8400
EXPOSE 8400 8401

# urlopen raises, and python exits with 1, for a status of 400 or more. There is no shell and no curl in between.
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8401/healthz', timeout=3)"]

ENTRYPOINT ["deepseek-meter"]
CMD ["serve"]
