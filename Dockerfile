# syntax=docker/dockerfile:1
# Builds lorad with CUDA and ships only what running it needs. It serves on the CPU where there is no
# GPU:  docker build -t lorad . && docker run -p 127.0.0.1:7430:7430 -v MODEL:/model:ro lorad
ARG CUDA_IMAGE=nvidia/cuda:13.0.1
ARG SYSTEM=ubuntu24.04

FROM ${CUDA_IMAGE}-devel-${SYSTEM} AS build
WORKDIR /src
COPY deploy/install_packages.sh deploy/install_packages.sh
RUN deploy/install_packages.sh build
COPY . .
RUN cmake --preset cuda -DLORAD_BUILD_TESTS=OFF \
 && cmake --build --preset cuda -j"$(nproc)" \
 && install -Ds -t /out/bin build/cuda/bin/lorad build/cuda/bin/loractl
# The packages that the two binaries' shared libraries come from; CUDA's are in the base image.
RUN ldd /out/bin/lorad /out/bin/loractl | sed -n 's|.*=> \(/[^ ]*\) .*|\1|p' | sort -u \
    | grep -v '/cuda' | xargs -n1 readlink -f | xargs dpkg -S 2>/dev/null \
    | cut -d: -f1 | sort -u >/out/packages

FROM ${CUDA_IMAGE}-runtime-${SYSTEM}
COPY --from=build /out/packages /tmp/packages
RUN apt-get update -qq \
 && xargs -a /tmp/packages apt-get install -y -qq --no-install-recommends \
 && rm -rf /var/lib/apt/lists/* /tmp/packages \
 && useradd --system --home-dir /var/lib/lorad --create-home lorad
COPY --from=build /out/bin/ /usr/local/bin/
USER lorad
VOLUME /var/lib/lorad
EXPOSE 7430 7431
STOPSIGNAL SIGTERM
HEALTHCHECK CMD ["loractl", "info", "--timeout=5s"]
ENTRYPOINT ["lorad"]
CMD ["--model=/model", "--state_dir=/var/lib/lorad", "--listen=0.0.0.0:7430", "--http_listen=0.0.0.0:7431"]
