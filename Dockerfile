# The image of the pipelines: Dataflow's workers, the Flex Template's launcher, and a driver on any machine. No TensorFlow.
#
#   docker build -t IMAGE . && docker push IMAGE
#
# The Beam version is pyproject's; a test compares them.
ARG BEAM=2.77.0
ARG LAUNCHER=latest
FROM apache/beam_python3.11_sdk:${BEAM} AS beam
FROM gcr.io/dataflow-templates-base/python311-template-launcher-base:${LAUNCHER} AS launcher

FROM python:3.11-slim
COPY --from=beam /opt/apache/beam /opt/apache/beam
COPY --from=launcher /opt/google/dataflow/python_template_launcher /opt/google/dataflow/python_template_launcher

WORKDIR /opt/tokenmill
COPY pyproject.toml constraints.txt README.md flex_template.py ./
COPY schemas schemas
COPY pipelines pipelines
COPY configs configs
RUN pip install --no-cache-dir -c constraints.txt '.[pipelines,gcp]' && pip check

ENV FLEX_TEMPLATE_PYTHON_PY_FILE=/opt/tokenmill/flex_template.py
# A driver: docker run --entrypoint python IMAGE -m pipelines run …
ENTRYPOINT ["/opt/apache/beam/boot"]
