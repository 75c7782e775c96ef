# Lateen's images for those who have Docker; `cargo xtask images` makes the same without it.
#
#   docker build --target lateend -t lateend:0.1.0 .
#   docker build --target proxy   -t proxy:0.1.0 .
#   docker build --target shop    -t shop:0.1.0 .
#
# For several architectures at once, each builder compiles for its own: on emulated or real nodes of
# `docker buildx create`, `docker buildx build --platform linux/amd64,linux/arm64 --target proxy --push -t REGISTRY/proxy:0.1.0 .`
# Envoy's image has both. `cargo xtask images` builds for the machine that it runs on; run it on each, push each archive
# (`skopeo copy oci-archive:target/images/proxy.tar docker://REGISTRY/proxy:0.1.0-arm64`), and join them with
# `docker buildx imagetools create`.

FROM rust:1.95-bookworm AS programs
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --locked --release -p lateen-daemon -p lateen-agent -p lateen-shop \
    && mkdir /programs && cp target/release/lateend target/release/lateen-agent target/release/shop /programs/

FROM envoyproxy/envoy:v1.40.0 AS envoy

FROM debian:bookworm-slim AS base
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/* \
    && groupadd -g 1337 istio-proxy && useradd -u 1337 -g 1337 -M -d / -s /usr/sbin/nologin istio-proxy \
    && groupadd -g 10001 app && useradd -u 10001 -g 10001 -M -d / -s /usr/sbin/nologin app

FROM base AS lateend
RUN install -d -o 1337 -g 1337 -m 0750 /var/lib/lateen && ln -s lateend /usr/local/bin/pilot-discovery
COPY --from=programs /programs/lateend /usr/local/bin/lateend
USER 1337:1337
ENTRYPOINT ["/usr/local/bin/lateend"]

FROM base AS proxy
RUN apt-get update && apt-get install -y --no-install-recommends iptables && rm -rf /var/lib/apt/lists/* \
    && install -d -o 1337 -g 1337 /etc/istio/proxy /etc/istio/pod /var/lib/istio/data /var/run/secrets/tokens \
    && ln -s lateen-agent /usr/local/bin/pilot-agent
COPY --from=envoy /usr/local/bin/envoy /usr/local/bin/envoy
COPY --from=programs /programs/lateen-agent /usr/local/bin/lateen-agent
USER 1337:1337
ENTRYPOINT ["/usr/local/bin/lateen-agent"]

FROM base AS shop
COPY --from=programs /programs/shop /usr/local/bin/shop
USER 10001:10001
ENTRYPOINT ["/usr/local/bin/shop"]
