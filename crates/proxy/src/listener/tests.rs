use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use rustls::ClientConnection;
use rustls::pki_types::ServerName;

use crate::config::listener::{
    ChainMatch, FilterChain, NetworkFilter, TcpProxy, TrafficDirection, Transport,
};
use crate::config::{Listener, listener::PortRanges};
use crate::upstream::rng::Rng;

use super::client_hello::{self, Reading};
use super::facts::Facts;
use super::sniff::{Look, Sniffed, look};
use super::{chain, proxy_protocol};

/// A real ClientHello.
fn hello(name: &str, alpn: &[&[u8]]) -> Vec<u8> {
    let provider = isthmus_pki::verify::provider();
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).unwrap();
    bytes
}

const SNI: &str = "outbound_.9080_.v1_.reviews.default.svc.cluster.local";

#[test]
fn a_hello_is_read_whole_cut_and_in_fragments() {
    let whole = hello(SNI, &[b"istio-http/1.1", b"istio"]);
    let Reading::Hello(read) = client_hello::read(&whole) else {
        panic!("a real hello was not understood");
    };
    assert_eq!(read.server_name.as_deref(), Some(SNI));
    assert_eq!(read.alpn, [b"istio-http/1.1".to_vec(), b"istio".to_vec()]);
    for cut in 1..whole.len() {
        assert_eq!(client_hello::read(&whole[..cut]), Reading::Partial, "{cut} bytes");
    }
    // The same message in records of 40 bytes each.
    let mut fragmented = Vec::new();
    for piece in whole[5..].chunks(40) {
        fragmented.extend_from_slice(&[22, 3, 1, 0, piece.len() as u8]);
        fragmented.extend_from_slice(piece);
    }
    assert_eq!(client_hello::read(&fragmented), Reading::Hello(read));
}

#[test]
fn damaged_hellos_neither_panic_nor_pass_for_more_than_they_are() {
    let whole = hello(SNI, &[b"istio"]);
    let rng = Rng::new(7);
    for _ in 0..20_000 {
        let mut damaged = whole.clone();
        for _ in 0..1 + rng.below(4) {
            let at = rng.below(damaged.len() as u64) as usize;
            damaged[at] = rng.next() as u8;
        }
        damaged.truncate(rng.below(damaged.len() as u64 + 1) as usize);
        let _ = client_hello::read(&damaged);
        let _ = look(&damaged, true, true);
        let _ = proxy_protocol::read(&damaged);
    }
    // A sender that never ends its hello is given up, not read for ever.
    let mut endless = vec![22, 3, 1, 0x40, 0, 1, 0, 0x7f, 0xff];
    endless.resize(9 + client_hello::MAX_HELLO, 0);
    assert_ne!(client_hello::read(&endless), Reading::Partial);
}

#[test]
fn http_is_told_from_what_only_begins_like_it() {
    let known = |bytes: &[u8]| match look(bytes, true, true) {
        Look::Known(s) => s,
        Look::Partial => panic!("undecided: {bytes:?}"),
    };
    assert_eq!(known(b"GET / HTTP/1.1\r\n"), Sniffed::Http(b"http/1.1"));
    assert_eq!(known(b"POST /x HTTP/1.0\r\n"), Sniffed::Http(b"http/1.0"));
    assert_eq!(known(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), Sniffed::Http(b"h2c"));
    assert_eq!(known(b"\x00\x00\x00\x12"), Sniffed::Other);
    assert_eq!(known(b"EHLO mail\r\n"), Sniffed::Other);
    assert_eq!(look(b"", true, true), Look::Partial);
    assert_eq!(look(b"PRI * HT", true, true), Look::Partial);
    assert_eq!(look(b"GET / HT", true, true), Look::Partial);
}

#[test]
fn both_versions_of_the_proxy_protocol_are_read() {
    let text = b"PROXY TCP4 192.0.2.1 198.51.100.2 5000 443\r\nrest";
    let addresses = (
        "192.0.2.1:5000".parse().unwrap(),
        "198.51.100.2:443".parse().unwrap(),
    );
    let expected = proxy_protocol::Reading::Header(text.len() - 4, Some(addresses));
    assert_eq!(proxy_protocol::read(text), expected);
    let mut binary = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    binary.extend_from_slice(&[192, 0, 2, 1, 198, 51, 100, 2, 0x13, 0x88, 1, 0xbb]);
    let expected = proxy_protocol::Reading::Header(28, Some(addresses));
    assert_eq!(proxy_protocol::read(&binary), expected);
    for cut in 0..28 {
        assert_eq!(
            proxy_protocol::read(&binary[..cut]),
            proxy_protocol::Reading::Partial
        );
    }
    assert_eq!(
        proxy_protocol::read(b"GET / HTTP/1.1"),
        proxy_protocol::Reading::Malformed
    );
}

fn named(name: &str, matches: ChainMatch) -> Arc<FilterChain> {
    let network = NetworkFilter::Tcp(TcpProxy {
        clusters: vec![("c".into(), 1)],
        stat_prefix: "c".into(),
        idle_timeout: None,
        max_connect_attempts: 1,
        max_duration: None,
        hash_source_ip: false,
        access_logs: Vec::new(),
        because: None,
    });
    Arc::new(FilterChain {
        name: name.into(),
        matches,
        tls: None,
        rbac: Vec::new(),
        network,
    })
}

#[test]
fn the_most_specific_chain_wins_in_envoys_order() {
    let port = |port| ChainMatch {
        destination_port: Some(port),
        ..ChainMatch::default()
    };
    let sni = |names: &[&str]| ChainMatch {
        server_names: names.iter().map(|n| Box::from(*n)).collect(),
        ..ChainMatch::default()
    };
    let listener = Listener {
        name: "l".into(),
        address: "0.0.0.0:15006".parse().unwrap(),
        bind: true,
        use_original_dst: false,
        original_dst: false,
        direction: TrafficDirection::Inbound,
        inspect_tls: true,
        inspect_tls_except: PortRanges::default(),
        inspect_http: false,
        inspect_http_except: PortRanges::default(),
        proxy_protocol: false,
        sniff_timeout: std::time::Duration::MAX,
        continue_on_sniff_timeout: false,
        chains: vec![
            named("exact", sni(&["a.example.com"])),
            named("suffix", sni(&["*.example.com"])),
            named("shorter", sni(&["*.com"])),
            named("port", port(9080)),
            named(
                "port and tls",
                ChainMatch {
                    transport: Some(Transport::Tls),
                    ..port(9080)
                },
            ),
            named(
                "subnet",
                ChainMatch {
                    destination: vec!["10.1.0.0/16".parse().unwrap()],
                    ..ChainMatch::default()
                },
            ),
        ],
        default_chain: Some(named("default", ChainMatch::default())),
    };
    let found = |to: &str, sni: Option<&str>, transport| {
        let facts = Facts {
            listener: "l".into(),
            direction: TrafficDirection::Inbound,
            peer: "192.0.2.1:1".parse().unwrap(),
            source: "192.0.2.1:1".parse().unwrap(),
            destination: to.parse().unwrap(),
            restored: true,
            transport,
            server_name: sni.map(Rc::from),
            application_protocols: Vec::new(),
            tls: None,
            accepted: Instant::now(),
            id: 1,
        };
        chain::find(&listener, &facts).unwrap().name.to_string()
    };
    let (tls, raw) = (Transport::Tls, Transport::Raw);
    assert_eq!(found("10.9.0.1:1", Some("a.example.com"), tls), "exact");
    assert_eq!(found("10.9.0.1:1", Some("b.c.example.com"), tls), "suffix");
    assert_eq!(found("10.9.0.1:1", Some("other.com"), tls), "shorter");
    assert_eq!(found("10.9.0.1:1", Some("other.org"), tls), "default");
    assert_eq!(found("10.9.0.1:9080", Some("a.example.com"), tls), "port and tls");
    assert_eq!(found("10.9.0.1:9080", None, raw), "port");
    assert_eq!(
        found("10.1.2.3:1", Some("a.example.com"), tls),
        "subnet",
        "without going back"
    );
}
