# A server for clients of OpenAI's audio API, on a CPU, without the GPU libraries:
#
#   docker build --tag asr .
#   docker run --rm --publish 127.0.0.1:8000:8000 asr
#   docker run --rm --volume "$PWD:/data" asr transcribe talk.mp3
FROM python:3.12-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY asr ./asr
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim
RUN pip install --no-cache-dir "torch==2.11.0.*" "torchaudio==2.11.0.*" \
        --index-url https://download.pytorch.org/whl/cpu
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir "$(ls /wheels/*.whl)[serve]"
RUN useradd --create-home --uid 1000 asr
USER asr
WORKDIR /data
EXPOSE 8000
# Of the server alone: other commands open no port, and end before it matters.
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/ready', timeout=4)"]
ENTRYPOINT ["asr"]
CMD ["serve", "--host", "0.0.0.0"]
