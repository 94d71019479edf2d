# syntax=docker/dockerfile:1
# Handover in a container: built with Rust's own image, run as nobody special on Debian's smallest.

FROM rust:1-slim-bookworm AS builder
WORKDIR /build
COPY . .
# The caches outlive this build; what is wanted of them is copied out.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target \
    cargo build --release --locked --bin handover \
    && cp target/release/handover /usr/local/bin/handover

FROM debian:bookworm-slim
# The authorities that rediss:// trusts where tls.ca names none.
RUN apt-get update && apt-get install --yes --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/*
RUN useradd --system --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin handover \
    && install --directory --mode 0700 --owner handover --group handover /var/lib/handover
COPY --from=builder /usr/local/bin/handover /usr/local/bin/handover
# The last active, epochs and breakers survive a restart here.
ENV STATE_DIRECTORY=/var/lib/handover
VOLUME /var/lib/handover
USER 10001:10001
EXPOSE 6379 9400
# Bring a configuration: mount it here. In a container it must listen on 0.0.0.0 to be reached.
ENTRYPOINT ["/usr/local/bin/handover"]
CMD ["-c", "/etc/handover/handover.toml"]
