# syntax=docker/dockerfile:1
# One image for every process; what it runs is said by whoever starts it (deploy/kubernetes, or `docker run … command`).
# The base is pinned by tag here, and by digest where it is built: a digest that nobody has looked up is worse than none.
#   docker buildx imagetools inspect python:3.11.14-slim-bookworm
#   docker build --build-arg BASE=python:3.11.14-slim-bookworm@sha256:… -t registry.example.com/ballast .
ARG BASE=python:3.11.14-slim-bookworm

# hadolint ignore=DL3006
FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /app
COPY requirements-production.txt ./
# Wheels only: there is no compiler here, and nothing is to be built on the way.
RUN python -m venv /opt/venv && /opt/venv/bin/pip install --only-binary :all: -r requirements-production.txt
COPY manage.py ./
COPY controlplane ./controlplane
COPY dataplane ./dataplane
COPY templates ./templates
COPY static ./static
# Settings stop without these; nothing is connected to, and nothing of them stays. The fingerprinted files are part of the
# image, so that every replica of a version serves the same ones.
RUN env DJANGO_SETTINGS_MODULE=controlplane.settings BALLAST_STATIC_DIR=/app/collected \
        BALLAST_SECRET_KEY=only-while-static-files-are-collected BALLAST_AGENT_TOKEN=only-while-collected \
        DATABASE_URL=postgresql://nobody@127.0.0.1:1/none REDIS_URL=redis://127.0.0.1:1/0 \
        /opt/venv/bin/python manage.py collectstatic --noinput \
    && /opt/venv/bin/python -m compileall -q controlplane dataplane

# The gateway's hot path as machine code; without it the same image runs Python, at a third of the pace.
FROM build AS native
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
COPY requirements-build.txt ./
RUN /opt/venv/bin/pip install --only-binary :all: -r requirements-build.txt
COPY launcher/__init__.py launcher/errors.py launcher/native.py ./launcher/
RUN /opt/venv/bin/python -m launcher.native

# hadolint ignore=DL3006
FROM ${BASE}
# A number, so that a cluster can tell it is not root.
RUN groupadd --gid 10001 ballast && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent ballast \
    && install -d -o 10001 -g 10001 /var/lib/ballast
COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app
COPY --from=native /app/build /app/build
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    DJANGO_SETTINGS_MODULE=controlplane.settings BALLAST_STATIC_DIR=/app/collected BALLAST_DATA_DIR=/var/lib/ballast \
    BALLAST_NATIVE=require
WORKDIR /app
USER 10001:10001
# Console, gateway. Nothing is written outside BALLAST_DATA_DIR and /tmp, so the root file system may be read-only.
EXPOSE 8000 8080
CMD ["python", "-m", "dataplane", "serve"]
