# The meter as an image: the proxy, its console, nothing else. Prometheus, Redis and Grafana are images of their own.
# Dependencies come first and with hashes, so that a change of the code does not fetch them again and nobody can swap one.
FROM python:3.11-slim

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1

WORKDIR /src
COPY requirements.txt ./
RUN pip install --require-hashes -r requirements.txt
COPY pyproject.toml README.md ./
COPY proxy ./proxy
RUN pip install --no-deps . && rm -rf build ./*.egg-info

# A number, so that Kubernetes can tell it is not root. The data directory holds journals: mount a volume that lasts.
RUN useradd --system --uid 10001 --no-create-home meter && install -d -o meter -m 0700 /data
USER 10001
WORKDIR /data
VOLUME ["/data"]

# A gateway that listened on the container's loopback would serve nobody. The console stays there until it has a token.
ENV METER_STORE_DATA_DIR=/data \
    METER_GATEWAY_LISTEN=0.0.0.0:8400
EXPOSE 8400 8401

# urlopen raises, and python exits with 1, for a status of 400 or more. There is no shell and no curl in between.
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8401/healthz', timeout=3)"]

ENTRYPOINT ["deepseek-meter"]
CMD ["serve"]
