# Transcription on a CPU, without the GPU libraries:
#
#   docker build --tag asr .
#   docker run --rm --volume "$PWD:/data" asr transcribe talk.mp3
FROM python:3.12-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY asr ./asr
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim
RUN pip install --no-cache-dir "torch==2.11.*" "torchaudio==2.11.*" \
        --index-url https://download.pytorch.org/whl/cpu
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir "$(ls /wheels/*.whl)[av]"
RUN useradd --create-home --uid 1000 asr
USER asr
WORKDIR /data
ENTRYPOINT ["asr"]
CMD ["--help"]
