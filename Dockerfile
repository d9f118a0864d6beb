# One image, one case: docker build --build-arg CASE=casev3 .
FROM python:3.13-slim

WORKDIR /app
COPY constraints.txt requirements.txt ./
RUN pip install --no-cache-dir --disable-pip-version-check -r requirements.txt

ARG CASE
COPY common/ common/
COPY ${CASE}/ ${CASE}/
RUN python -m compileall -q common ${CASE} && useradd --system --no-create-home exchange \
    && install --directory --owner=exchange --mode=700 /log
USER exchange

ENV CASE=${CASE} EXCHANGE_HOST=0.0.0.0 EXCHANGE_PORT=8000 EXCHANGE_WAL_DIR=/log
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s CMD \
    ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health')"]
CMD ["sh", "-c", "exec python -m ${CASE}"]
