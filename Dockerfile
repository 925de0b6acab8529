# anyvod on the official image of PostgreSQL:
#
#   docker build --build-arg PG_MAJOR=17 -t anyvod .
#   docker compose up          a server and the simulated gateway: compose.yaml

ARG PG_MAJOR=17

FROM postgres:${PG_MAJOR} AS build
ARG PG_MAJOR
RUN apt-get update && apt-get install -y --no-install-recommends \
		gcc libc6-dev libcurl4-openssl-dev libmicrohttpd-dev make pkg-config \
		postgresql-server-dev-${PG_MAJOR}
COPY . /anyvod
WORKDIR /anyvod
RUN make with_llvm=no && make with_llvm=no DESTDIR=/out install \
	&& make -C test/simulator BUILD=/out/simulator

# The simulated gateway, for trying it out.
FROM postgres:${PG_MAJOR} AS simulator
RUN apt-get update && apt-get install -y --no-install-recommends 'libmicrohttpd12*' \
	&& rm -rf /var/lib/apt/lists/*
COPY --from=build /out/simulator/simulator /usr/local/bin/
USER nobody
ENTRYPOINT ["simulator", "--listen", "0.0.0.0", "--port", "8080"]

FROM postgres:${PG_MAJOR}
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates libcurl4 \
	&& rm -rf /var/lib/apt/lists/*
COPY --from=build /out/usr /usr
CMD ["postgres", "-c", "shared_preload_libraries=anyvod"]
