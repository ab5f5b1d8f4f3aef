use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;

use super::*;
use crate::Error;
use crate::netns::NetNs;
use crate::netns::tests::inside;

/// Two namespaces, joined by a bridge in the third, talk.
#[test]
fn a_bridge_joins_two_namespaces() {
    inside("rtnetlink::tests::a_bridge_joins_two_namespaces", || {
        let mut here = Handle::open().unwrap();
        here.add_bridge("br0").unwrap();
        here.set_up("br0").unwrap();
        let ends: Vec<NetNs> = (1..=2)
            .map(|i| {
                let ns = NetNs::create().unwrap();
                let port = format!("port{i}");
                here.add_veth(&port, "eth0", PeerNamespace::Fd(ns.as_fd()))
                    .unwrap();
                here.set_mtu(&port, 1400).unwrap();
                here.set_master(&port, "br0").unwrap();
                here.set_up(&port).unwrap();
                ns.run(|| {
                    let mut h = Handle::open().unwrap();
                    h.rename("eth0", "wire").unwrap();
                    h.set_up("wire").unwrap();
                    let address = format!("10.0.0.{i}/24").parse().unwrap();
                    h.add_address("wire", address).unwrap();
                    h.add_address("wire", address).unwrap();
                })
                .unwrap();
                ns
            })
            .collect();
        assert_eq!(here.link("port1").unwrap().mtu, 1400);
        assert_eq!(
            here.link("port1").unwrap().master,
            Some(here.link("br0").unwrap().index)
        );

        let listener = ends[0].run(|| TcpListener::bind("10.0.0.1:80").unwrap()).unwrap();
        let mut client = ends[1]
            .run(|| TcpStream::connect("10.0.0.1:80").unwrap())
            .unwrap();
        let (mut server, from) = listener.accept().unwrap();
        assert_eq!(from.ip().to_string(), "10.0.0.2");
        client.write_all(b"hello").unwrap();
        let mut word = [0; 5];
        server.read_exact(&mut word).unwrap();
        assert_eq!(&word, b"hello");
    });
}

#[test]
fn a_router_is_on_the_way_and_errors_name_their_object() {
    inside(
        "rtnetlink::tests::a_router_is_on_the_way_and_errors_name_their_object",
        || {
            let mut router = Handle::open().unwrap();
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
            let mut pods = Vec::new();
            for i in 2..=3 {
                let ns = NetNs::create().unwrap();
                let link = format!("pod{i}");
                router
                    .add_veth(&link, "eth0", PeerNamespace::Fd(ns.as_fd()))
                    .unwrap();
                router.set_up(&link).unwrap();
                router.add_address(&link, "10.0.0.1/32".parse().unwrap()).unwrap();
                router
                    .add_link_route(format!("10.0.0.{i}/32").parse().unwrap(), &link)
                    .unwrap();
                ns.run(|| {
                    let mut h = Handle::open().unwrap();
                    h.set_up("eth0").unwrap();
                    h.add_address("eth0", format!("10.0.0.{i}/32").parse().unwrap())
                        .unwrap();
                    let e = h.add_default_route("10.0.0.1".parse().unwrap()).unwrap_err();
                    assert!(
                        matches!(&e, Error::Kernel { object, .. } if object.contains("10.0.0.1")),
                        "{e}"
                    );
                    h.add_link_route("10.0.0.1/32".parse().unwrap(), "eth0").unwrap();
                    h.add_default_route("10.0.0.1".parse().unwrap()).unwrap();
                    h.add_default_route("10.0.0.1".parse().unwrap()).unwrap();
                })
                .unwrap();
                pods.push(ns);
            }
            let listener = pods[0].run(|| TcpListener::bind("10.0.0.2:80").unwrap()).unwrap();
            let client = pods[1]
                .run(|| TcpStream::connect("10.0.0.2:80").unwrap())
                .unwrap();
            assert_eq!(listener.accept().unwrap().1, client.local_addr().unwrap());

            let e = router
                .add_veth("pod2", "x", PeerNamespace::Same)
                .unwrap_err()
                .to_string();
            assert!(e.contains("pod2") && e.contains("delete it first"), "{e}");
            assert!(matches!(router.set_up("nothing"), Err(Error::NoLink(n)) if n == "nothing"));
            assert!(router.add_bridge("a-name-that-is-too-long").is_err());
            router.delete_link("pod2").unwrap();
            router.delete_link("pod2").unwrap();
            router.add_local("10.8.0.0/16".parse().unwrap()).unwrap();
            TcpListener::bind("10.8.3.4:80").unwrap();
            router.add_unreachable("10.9.0.0/16".parse().unwrap()).unwrap();
            router.delete_route("10.9.0.0/16".parse().unwrap()).unwrap();
            router.delete_route("10.9.0.0/16".parse().unwrap()).unwrap();
        },
    );
}
