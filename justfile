# What a developer types, and what CI runs. `just` alone lists the recipes.

_list:
    @just --list

# Two clusters, one mesh, on this machine.
demo *ARGS:
    cargo run --release -- demo {{ARGS}}

# Formatting and lints, warnings denied.
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --features isthmus/interop,isthmus/kubernetes -- -D warnings

# Everything that needs Rust alone.
test:
    cargo test --workspace

# The suites against real peers (openssl, dig, curl, a browser, Envoy, gRPC); installs what they need.
interop:
    tests/interop/install.sh
    cargo test -p isthmus --features interop --test interop

# The suite on real API servers; builds them first, where they are missing, which takes Go and a while.
kubernetes *ARGS:
    tests/kubernetes/assets/build.sh
    cargo test -p isthmus --features kubernetes --test kubernetes {{ARGS}}

# Mutated input for every reader: all of them, or one; for so many seconds. What fails is kept in fuzz/corpus.
fuzz *ARGS:
    cargo run --release -p isthmus-fuzz -- {{ARGS}}

# Writes what deploy/ holds that is generated: custom resource definitions and schemas of the charts' values.
manifests:
    ISTHMUS_REGENERATE=1 cargo test -p isthmus-manifests --test drift

# An OCI archive of the image, without a daemon, from a static binary.
image BINARY ARCHIVE="isthmus.tar" TAG="latest":
    deploy/image/archive.sh {{BINARY}} {{ARCHIVE}} {{TAG}}

# Licences, duplicate versions, forbidden crates.
deny:
    cargo deny --version >/dev/null 2>&1 || cargo install --locked cargo-deny
    cargo deny check licenses bans sources

# All of it, as CI does.
ci:
    .ci/run
