"""What Istio's agent does beside a stock Envoy, in as few lines as it takes.

It makes a key, has it signed by the control plane's CSR service, hands key, chain and roots to Envoy over
SDS on a Unix socket (Istio's cluster `sds-grpc`), and starts Envoy with a bootstrap that names the control
plane for everything else. gRPC's own Python library speaks to the CSR service, so that is a peer as well.

    agent.py ENVOY router|sidecar delta|sotw DIRECTORY

The rest comes from the pod's environment: POD_NAME, POD_NAMESPACE, POD_IP, CLUSTER, LABELS (JSON).
"""

import json
import os
import subprocess
import sys
from concurrent import futures

import grpc

ROOTS = "/var/run/secrets/istio/root-cert.pem"
TOKEN = "/var/run/secrets/tokens/istio-token"
CONTROL_PLANE = "istiod.istio-system.svc"
SECRET = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"


# Protobuf's wire format, as much of it as SDS and the CSR service need.
def varint(n):
    out = b""
    while n > 0x7F:
        out += bytes([n & 0x7F | 0x80])
        n >>= 7
    return out + bytes([n])


def field(number, value):
    if isinstance(value, str):
        value = value.encode()
    return varint(number << 3 | 2) + varint(len(value)) + value


def fields(message):
    """Length-delimited fields as (number, bytes)."""

    def read(at):
        n = shift = 0
        while True:
            n |= (message[at] & 0x7F) << shift
            shift += 7
            at += 1
            if message[at - 1] < 0x80:
                return n, at

    at = 0
    while at < len(message):
        tag, at = read(at)
        if tag & 7 == 2:
            size, at = read(at)
            yield tag >> 3, message[at : at + size]
            at += size
        elif tag & 7 == 0:
            _, at = read(at)
        else:
            at += {1: 8, 5: 4}[tag & 7]


def certificate(directory):
    """Key and chain, as PEM: a CSR whose only content is the key, signed for whom the token proves."""
    key = os.path.join(directory, "key.pem")
    csr = subprocess.run(
        ["openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc"]
        + ["-subj", "/", "-keyout", key],
        check=True,
        capture_output=True,
    ).stdout
    with open(ROOTS, "rb") as roots, open(TOKEN) as token:
        channel = grpc.secure_channel(f"{CONTROL_PLANE}:15012", grpc.ssl_channel_credentials(roots.read()))
        bearer = "Bearer " + token.read().strip()
    call = channel.unary_unary("/istio.v1.auth.IstioCertificateService/CreateCertificate")
    metadata = [("authorization", bearer), ("clusterid", os.environ["CLUSTER"])]
    answer = call(field(1, csr), metadata=metadata, timeout=20, wait_for_ready=True)
    chain = [value for number, value in fields(answer) if number == 1]
    with open(key, "rb") as file:
        # The last certificate is the root, which nobody sends.
        return file.read(), b"".join(chain[:-1]), chain[-1], bearer


def serve(path, key, chain, root):
    """SDS, state of the world: the workload's certificate, the mesh's roots, the system's roots."""

    def inline(content):
        return field(2, content)

    def roots(name, content):
        return field(1, name) + field(4, field(1, inline(content)))

    with open("/etc/ssl/certs/ca-certificates.crt", "rb") as system:
        secrets = {
            b"default": field(1, "default") + field(2, field(1, inline(chain)) + field(2, inline(key))),
            b"ROOTCA": roots("ROOTCA", root),
            b"file-root:system": roots("file-root:system", system.read()),
        }

    def stream(requests, _):
        told = set()
        for request in requests:
            names = [value for number, value in fields(request) if number == 3]
            if set(names) <= told:
                continue
            told |= set(names)
            known = [field(2, field(1, SECRET) + field(2, secrets[name])) for name in names if name in secrets]
            yield field(1, "1") + b"".join(known) + field(4, SECRET) + field(5, "1")

    handler = grpc.method_handlers_generic_handler(
        "envoy.service.secret.v3.SecretDiscoveryService",
        {"StreamSecrets": grpc.stream_stream_rpc_method_handler(stream)},
    )
    # Each stream holds a thread.
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=256))
    server.add_generic_rpc_handlers([handler])
    server.add_insecure_port(f"unix:{path}")
    server.start()
    return server


HTTP2 = {
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
}


def cluster(name, kind, address):
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
    return {
        "name": name,
        "type": kind,
        "connect_timeout": "5s",
        "typed_extension_protocol_options": HTTP2,
        "load_assignment": {"cluster_name": name, "endpoints": endpoints},
    }


def bootstrap(role, protocol, bearer, sds):
    env = os.environ
    namespace = env["POD_NAMESPACE"]
    name = f"{env['POD_NAME']}.{namespace}"
    control_plane = cluster(
        "xds-grpc", "STRICT_DNS", {"socket_address": {"address": CONTROL_PLANE, "port_value": 15012}}
    )
    san = {"san_type": "DNS", "matcher": {"exact": CONTROL_PLANE}}
    control_plane["transport_socket"] = {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "sni": CONTROL_PLANE,
            "common_tls_context": {
                "alpn_protocols": ["h2"],
                "validation_context": {
                    "trusted_ca": {"filename": ROOTS},
                    "match_typed_subject_alt_names": [san],
                },
            },
        },
    }
    ads = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}
    return {
        "node": {
            "id": f"{role}~{env['POD_IP']}~{name}~{namespace}.svc.cluster.local",
            "cluster": name,
            # No ISTIO_VERSION: this Envoy has none of Istio's filters.
            "metadata": {
                "NAMESPACE": namespace,
                "CLUSTER_ID": env["CLUSTER"],
                "INSTANCE_IPS": env["POD_IP"],
                "LABELS": json.loads(env["LABELS"]),
            },
        },
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 15000}}},
        "dynamic_resources": {
            "ads_config": {
                "api_type": {"delta": "DELTA_GRPC", "sotw": "GRPC"}[protocol],
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": [
                    {
                        "envoy_grpc": {"cluster_name": "xds-grpc"},
                        "initial_metadata": [{"key": "authorization", "value": bearer}],
                    }
                ],
            },
            "cds_config": ads,
            "lds_config": ads,
        },
        "static_resources": {
            "clusters": [control_plane, cluster("sds-grpc", "STATIC", {"pipe": {"path": sds}})]
        },
        # Capture leaves marked sockets alone (SOL_SOCKET, SO_MARK, 0x539).
        "cluster_manager": {
            "upstream_bind_config": {
                "source_address": {"address": "0.0.0.0", "port_value": 0},
                "socket_options": [{"level": 1, "name": 36, "int_value": 0x539, "state": "STATE_PREBIND"}],
            }
        },
    }


def main():
    envoy, role, protocol, directory = sys.argv[1:]
    directory = os.path.join(directory, os.environ["POD_NAME"])
    os.makedirs(directory, exist_ok=True)
    key, chain, root, bearer = certificate(directory)
    socket = os.path.join(directory, "sds")
    server = serve(socket, key, chain, root)
    if role == "sidecar":
        # What Istio's init container does. Not earlier: our own request for a certificate bears no mark.
        subprocess.run(["isthmus", "redirect", "apply", "--no-dns"], check=True)
    path = os.path.join(directory, "bootstrap.json")
    with open(path, "w") as file:
        json.dump(bootstrap(role, protocol, bearer, socket), file, indent=1)
    command = [envoy, "-c", path, "--concurrency", "1", "--use-dynamic-base-id", "--base-id-path", path + ".id"]
    ended = subprocess.run(command)
    server.stop(None)
    sys.exit(ended.returncode)


main()
