# The command vocal-extraction with what extraction needs, for the CPU. Written by hand and not yet built by anybody.
#   docker build -t vocal-extraction . && docker run --rm -v "$PWD:/songs" --user "$(id -u)" vocal-extraction extract song.mp3
FROM python:3.12-slim
RUN apt-get update && apt-get install -y --no-install-recommends ffmpeg && rm -rf /var/lib/apt/lists/*
COPY . /source
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu torch==2.13.0+cpu \
    && pip install --no-cache-dir /source && rm -rf /source
RUN useradd --create-home listener
USER listener
WORKDIR /songs
ENTRYPOINT ["vocal-extraction"]
