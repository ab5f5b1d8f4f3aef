//! First bytes of connections, names, paths and formats: what strangers send to a proxy.

use bytes::Bytes;
use isthmus_dns::resolv_conf::ResolvConf;
use isthmus_dns::wire::{self, Parsed, Transport};
use isthmus_proxy::http::headers;
use isthmus_proxy::listener::client_hello::{self, Reading};
use isthmus_proxy::listener::proxy_protocol;
use isthmus_proxy::listener::sniff::{self, Look};
use isthmus_proxy::telemetry::format;

use super::{Kind, Target, text};

/// SNI and ALPN of a ClientHello that is only peeked at.
pub const CLIENT_HELLO: Target = Target {
    name: "client_hello",
    kind: Kind::Bytes,
    inputs: 4000,
    seeds: || {
        let whole = hello();
        let mut split = Vec::new();
        // The same in records of 50 bytes.
        for piece in whole[5..].chunks(50) {
            split.extend([22, 3, 1, 0, piece.len() as u8]);
            split.extend(piece);
        }
        vec![whole, split]
    },
    run: |input| {
        let whole = client_hello::read(input);
        // More bytes make a decision, and never another one.
        for end in (0..input.len().min(600)).step_by(7) {
            match client_hello::read(&input[..end]) {
                Reading::Partial => {}
                decided => assert_eq!(decided, whole, "after {end} bytes"),
            }
        }
    },
};

/// Which protocol a connection speaks.
pub const SNIFF: Target = Target {
    name: "sniff",
    kind: Kind::Bytes,
    inputs: 4000,
    seeds: || {
        vec![
            b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_vec(),
            b"\r\n\r\nPOST /x HTTP/1.0\r\n".to_vec(),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04".to_vec(),
            hello(),
            b"SSH-2.0-OpenSSH\r\n".to_vec(),
        ]
    },
    run: |input| {
        for (tls, http) in [(true, true), (true, false), (false, true)] {
            let whole = sniff::look(input, tls, http);
            for end in (1..input.len().min(300)).step_by(3) {
                match sniff::look(&input[..end], tls, http) {
                    Look::Partial => {}
                    decided => assert_eq!(decided, whole, "after {end} bytes"),
                }
            }
        }
    },
};

/// The PROXY protocol.
pub const PROXY_PROTOCOL: Target = Target {
    name: "proxy_protocol",
    kind: Kind::Bytes,
    inputs: 4000,
    seeds: || {
        let mut two = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
        two.extend([192, 0, 2, 1, 198, 51, 100, 1, 0x12, 0x34, 0, 80]);
        let mut six = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24".to_vec();
        six.extend([7; 36]);
        vec![
            b"PROXY TCP4 192.0.2.1 198.51.100.1 4660 80\r\nGET".to_vec(),
            b"PROXY TCP6 2001:db8::1 ::1 1 2\r\n".to_vec(),
            b"PROXY UNKNOWN\r\n".to_vec(),
            two,
            six,
        ]
    },
    run: |input| {
        let whole = proxy_protocol::read(input);
        if let proxy_protocol::Reading::Header(size, _) = whole {
            assert!(size <= input.len());
        }
        for end in 0..input.len().min(200) {
            match proxy_protocol::read(&input[..end]) {
                proxy_protocol::Reading::Partial => {}
                decided => assert_eq!(decided, whole, "after {end} bytes"),
            }
        }
    },
};

/// DNS messages, and the resolver's file.
pub const DNS: Target = Target {
    name: "dns",
    kind: Kind::Bytes,
    inputs: 4000,
    seeds: || {
        let query = |kind: u8, edns: bool| {
            let mut out = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(edns)];
            out.extend(b"\x04echo\x02eu\x04mesh\x05local\0\0");
            out.extend([kind, 0, 1]);
            if edns {
                out.extend([0, 0, 41, 4, 208, 0, 0, 128, 0, 0, 4, 0, 10, 0, 0]);
            }
            out
        };
        vec![
            query(1, false),
            query(28, true),
            query(255, false),
            // A pointer to itself.
            b"\0\0\x01\0\0\x01\0\0\0\0\0\0\xc0\x0c\0\x01\0\x01".to_vec(),
            b"nameserver 10.0.0.1\nsearch a.b c.d\noptions ndots:5 timeout:1\n".to_vec(),
        ]
    },
    run: |input| {
        for transport in [Transport::Udp, Transport::Tcp] {
            match wire::parse(Bytes::copy_from_slice(input), transport) {
                Parsed::Question(question) => {
                    assert!(question.name.len() <= 1100, "{}", question.name);
                    assert!(question.room() >= 512);
                }
                Parsed::Refuse(reply) => assert!(reply.len() >= 12 && reply.len() <= 65_535),
                Parsed::Ignore => {}
            }
        }
        let _ = ResolvConf::parse(&String::from_utf8_lossy(input));
    },
};

/// Normalization of paths, on which authorization stands.
pub const PATHS: Target = Target {
    name: "paths",
    kind: Kind::Text,
    inputs: 10_000,
    seeds: || {
        [
            "/a/../b/./c?q=/../x",
            "/%2e%2e/%2E./a%2fb%5c",
            "//a///b",
            "/a\\..\\b#x",
            "/",
        ]
        .map(|p| p.as_bytes().to_vec())
        .into()
    },
    run: |input| {
        let path = text(input);
        if let Some(normal) = headers::normalize_path(path) {
            assert!(normal.starts_with('/'), "{normal:?}");
            let end = normal.find(['?', '#']).unwrap_or(normal.len());
            for segment in normal[..end].split('/') {
                assert!(segment != ".." && segment != ".", "{path:?} becomes {normal:?}");
            }
            let again = headers::normalize_path(&normal);
            assert_eq!(
                again.as_deref(),
                Some(&*normal),
                "{path:?} is not settled at once"
            );
            let merged = headers::merge_slashes(&normal);
            let end = merged.find('?').unwrap_or(merged.len());
            assert!(!merged[..end].contains("//"), "{merged:?}");
        }
    },
};

/// Access log formats.
pub const FORMATS: Target = Target {
    name: "formats",
    kind: Kind::Text,
    inputs: 10_000,
    seeds: || {
        vec![
            b"[%START_TIME(%Y/%m/%dT%H:%M:%S%z %3f)%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH):12%\" 100%%\n"
                .to_vec(),
            b"%RESP(A)%%TRAILER(B):3%%DYNAMIC_METADATA(a:b)%%UPSTREAM_HOST%%DURATION%".to_vec(),
        ]
    },
    run: |input| {
        let parts = format::parse(text(input));
        assert!(parts.len() <= input.len() + 1);
    },
};

/// A ClientHello of TLS 1.3 with SNI and ALPN.
fn hello() -> Vec<u8> {
    let mut extensions = Vec::new();
    let name = b"outbound_.80_._.echo.echo.svc.cluster.local";
    let mut sni = vec![0, 0, name.len() as u8];
    sni.extend(name);
    let mut server_name = vec![0, sni.len() as u8];
    server_name.extend(&sni);
    let alpn = b"\0\x0f\x05istio\x08istio-h2";
    for (kind, body) in [
        (0u8, &server_name[..]),
        (16, &alpn[..]),
        (43, &b"\x02\x03\x04"[..]),
    ] {
        extensions.extend([0, kind, 0, body.len() as u8]);
        extensions.extend(body);
    }
    let mut body = vec![3, 3];
    body.extend([9; 32]);
    body.push(0);
    body.extend([0, 2, 0x13, 1, 1, 0, 0, extensions.len() as u8]);
    body.extend(&extensions);
    let mut out = vec![22, 3, 1, 0, (body.len() + 4) as u8, 1, 0, 0, body.len() as u8];
    out.extend(&body);
    out
}
