use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::socket::sockopt::{Mark, OriginalDst};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, getsockopt, setsockopt, socket,
};

use super::*;
use crate::netns::NetNs;
use crate::netns::tests::inside;
use crate::nft::Version;
use crate::rtnetlink::{Handle, PeerNamespace};

fn annotated(pairs: &[(&str, &str)]) -> crate::Result<Plan> {
    let annotations: BTreeMap<String, String> = pairs
        .iter()
        .map(|(k, v)| (format!("traffic.sidecar.istio.io/{k}"), (*v).to_owned()))
        .collect();
    Plan::default().with_annotations(&annotations)
}

#[test]
fn annotations_change_the_plan() {
    let plan = annotated(&[
        ("includeOutboundIPRanges", "10.0.0.0/8, 192.168.1.7,fd00::/8"),
        ("excludeOutboundIPRanges", "10.9.9.9/32"),
        ("includeOutboundPorts", "3306"),
        ("excludeOutboundPorts", "25,465"),
        ("includeInboundPorts", ""),
        ("excludeInboundPorts", "22"),
        ("excludeInterfaces", "net1"),
    ])
    .unwrap();
    assert_eq!(plan.inbound, Selection::Only(vec![]));
    assert_eq!(plan.exclude_inbound, [22].into());
    assert_eq!(plan.exclude_links, ["net1"]);
    let text = plan.table().to_string();
    for line in [
        "iifname \"net1\" return",
        "tcp dport { 22, 15008, 15020, 15021, 15090 } return",
        "tcp dport { 25, 465 } return",
        "ip daddr 10.9.9.9/32 return",
        "tcp dport { 3306 } jump ISTIO_REDIRECT",
        "ip daddr 192.168.1.7/32 meta l4proto tcp jump ISTIO_REDIRECT",
        "ip6 daddr fd00::/8 meta l4proto tcp jump ISTIO_REDIRECT",
    ] {
        assert!(text.contains(line), "{line:?} in\n{text}");
    }
    assert!(
        !text.contains("jump ISTIO_IN_REDIRECT\n\t}\n\n\tchain ISTIO_OUTPUT"),
        "{text}"
    );

    for (name, value) in [
        ("excludeOutboundPorts", "http"),
        ("includeInboundPorts", "70000"),
        ("includeOutboundIPRanges", "10.0.0.0/33"),
        ("excludeInterfaces", "a-name-of-many-bytes"),
        ("excludeOutboundPort", "1"),
    ] {
        let e = annotated(&[(name, value)]).unwrap_err().to_string();
        assert!(e.contains(name), "{e}");
    }
}

#[test]
fn the_downward_api_is_read() {
    let text = "kubernetes.io/config.seen=\"2026-08-01T10:00:00Z\"\ntraffic.sidecar.istio.io/excludeInboundPorts=\"22,23\"\nother=\"a\\nb\"\nbroken\n";
    let plan = Plan::default()
        .with_annotations(&downward_annotations(text))
        .unwrap();
    assert_eq!(plan.exclude_inbound, [22, 23].into());
}

#[test]
fn resolvers_are_those_of_resolv_conf() {
    let conf = "# comment\nnameserver 10.96.0.10\nsearch a b\nnameserver fe80::1%eth0\nnameserver 10.96.0.10\nnameserver x\n";
    let Selection::Only(servers) = resolvers(conf) else {
        panic!()
    };
    assert_eq!(
        servers,
        [
            "10.96.0.10".parse::<IpAddr>().unwrap(),
            "fe80::1".parse().unwrap()
        ]
    );
}

/// The defaults, with Istio's user, as Istio's own iptables have them.
#[test]
fn iptables_text_is_istios() {
    let plan = Plan {
        exempt: Exempt {
            mark: None,
            uids: vec![PROXY_ID],
            gids: vec![],
        },
        resolvers: resolvers("nameserver 10.96.0.10"),
        ..Plan::default()
    };
    assert_eq!(
        plan.iptables(Version::V4),
        "*nat
:ISTIO_INBOUND - [0:0]
:ISTIO_OUTPUT - [0:0]
:ISTIO_REDIRECT - [0:0]
:ISTIO_IN_REDIRECT - [0:0]
-A PREROUTING -p tcp -j ISTIO_INBOUND
-A OUTPUT -j ISTIO_OUTPUT
-A ISTIO_INBOUND -p tcp -m multiport --dports 15008,15020,15021,15090 -j RETURN
-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT
-A ISTIO_OUTPUT -o lo -s 127.0.0.6/32 -j RETURN
-A ISTIO_OUTPUT -o lo ! -d 127.0.0.1/32 -p tcp -m multiport ! --dports 53 -m multiport ! --dports 15008 -m owner --uid-owner 1337 -j ISTIO_IN_REDIRECT
-A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -o lo -p tcp -m multiport ! --dports 53 -j RETURN
-A ISTIO_OUTPUT -d 10.96.0.10/32 -p udp --dport 53 -j REDIRECT --to-ports 15053
-A ISTIO_OUTPUT -d 10.96.0.10/32 -p tcp --dport 53 -j REDIRECT --to-ports 15053
-A ISTIO_OUTPUT -d 127.0.0.1/32 -j RETURN
-A ISTIO_OUTPUT -p tcp -j ISTIO_REDIRECT
-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001
-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006
COMMIT
"
    );
    let v6 = plan.iptables(Version::V6);
    assert!(v6.contains("-s ::6/128") && !v6.contains("127.0.0.1"), "{v6}");
}

/// A pod at 10.0.0.2, a client outside at 10.0.0.1 who also is everything else that exists.
struct Pod {
    net: NetNs,
}

impl Pod {
    fn new() -> Self {
        let net = NetNs::create().unwrap();
        let mut outside = Handle::open().unwrap();
        outside
            .add_veth("pod", "eth0", PeerNamespace::Fd(net.as_fd()))
            .unwrap();
        outside.set_up("pod").unwrap();
        outside
            .add_address("pod", "10.0.0.1/24".parse().unwrap())
            .unwrap();
        // Addresses out there that the application calls.
        for a in ["198.51.100.1/32", "10.96.0.10/32", "10.96.0.11/32"] {
            outside.add_address("lo", a.parse().unwrap()).unwrap();
        }
        net.run(|| {
            let mut h = Handle::open().unwrap();
            h.set_up("eth0").unwrap();
            h.add_address("eth0", "10.0.0.2/24".parse().unwrap()).unwrap();
            h.add_default_route("10.0.0.1".parse().unwrap()).unwrap();
        })
        .unwrap();
        Self { net }
    }

    fn apply(&self, plan: Plan) {
        self.net
            .run(|| plan.apply().and_then(|()| plan.verify()).unwrap())
            .unwrap();
    }

    fn listen(&self, at: &str) -> TcpListener {
        self.net.run(|| TcpListener::bind(at).unwrap()).unwrap()
    }

    /// A connection made in the pod: from where, with which mark.
    fn dial(&self, from: Option<Ipv4Addr>, to: &str, mark: Option<u32>) -> std::io::Result<TcpStream> {
        self.net
            .run(|| {
                let fd = socket(
                    AddressFamily::Inet,
                    SockType::Stream,
                    SockFlag::SOCK_CLOEXEC,
                    None,
                )?;
                if let Some(m) = mark {
                    setsockopt(&fd, Mark, &m)?;
                }
                use std::os::fd::AsRawFd;
                if let Some(f) = from {
                    bind(
                        fd.as_raw_fd(),
                        &SockaddrIn::from(std::net::SocketAddrV4::new(f, 0)),
                    )?;
                }
                let to: std::net::SocketAddrV4 = to.parse().unwrap();
                connect(fd.as_raw_fd(), &SockaddrIn::from(to))?;
                Ok(TcpStream::from(fd))
            })
            .unwrap()
    }
}

/// Takes the connection that `client` made and says what it was for.
fn accepted(listener: &TcpListener, client: &TcpStream) -> SocketAddr {
    listener.set_nonblocking(true).unwrap();
    for _ in 0..500 {
        if let Ok((c, from)) = listener.accept() {
            assert_eq!(from, client.local_addr().unwrap());
            let o = getsockopt(&c.as_fd(), OriginalDst).unwrap();
            return SocketAddr::from((
                Ipv4Addr::from(u32::from_be(o.sin_addr.s_addr)),
                u16::from_be(o.sin_port),
            ));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("nothing arrived at {:?}", listener.local_addr());
}

fn outside(at: &str) -> TcpListener {
    TcpListener::bind(at).unwrap()
}

#[test]
fn what_is_captured_reaches_the_proxy_and_the_rest_does_not() {
    inside(
        "capture::tests::what_is_captured_reaches_the_proxy_and_the_rest_does_not",
        || {
            let pod = Pod::new();
            pod.apply(annotated(&[("excludeOutboundPorts", "25"), ("excludeInboundPorts", "22")]).unwrap());
            let outbound = pod.listen("0.0.0.0:15001");
            let inbound = pod.listen("0.0.0.0:15006");
            let app = pod.listen("0.0.0.0:80");
            let status = pod.listen("0.0.0.0:15021");
            let ssh = pod.listen("0.0.0.0:22");
            let web = outside("198.51.100.1:80");
            let mail = outside("198.51.100.1:25");
            let to = |s: &str| -> SocketAddr { s.parse().unwrap() };

            // Outbound, application and proxy.
            let c = pod.dial(None, "198.51.100.1:80", None).unwrap();
            assert_eq!(accepted(&outbound, &c), to("198.51.100.1:80"));
            let c = pod.dial(None, "198.51.100.1:80", Some(MARK)).unwrap();
            let (_, from) = web.accept().unwrap();
            assert_eq!(from, c.local_addr().unwrap());
            let c = pod.dial(None, "198.51.100.1:25", None).unwrap();
            assert_eq!(mail.accept().unwrap().1, c.local_addr().unwrap());

            // Inbound.
            let c = TcpStream::connect("10.0.0.2:80").unwrap();
            assert_eq!(accepted(&inbound, &c), to("10.0.0.2:80"));
            let c = TcpStream::connect("10.0.0.2:15021").unwrap();
            assert_eq!(status.accept().unwrap().1, c.local_addr().unwrap());
            let c = TcpStream::connect("10.0.0.2:22").unwrap();
            assert_eq!(ssh.accept().unwrap().1, c.local_addr().unwrap());

            // Inside the pod: the application to itself, by localhost and by its address; the proxy to it.
            for address in ["127.0.0.1:80", "10.0.0.2:80"] {
                let c = pod.dial(None, address, None).unwrap();
                assert_eq!(app.accept().unwrap().1, c.local_addr().unwrap(), "{address}");
            }
            let handed = Some(Ipv4Addr::new(127, 0, 0, 6));
            let c = pod.dial(handed, "10.0.0.2:80", Some(MARK)).unwrap();
            assert_eq!(app.accept().unwrap().1, c.local_addr().unwrap());
            // The application called its own service: the proxy dials the pod's address, which is inbound.
            let c = pod.dial(None, "10.0.0.2:80", Some(MARK)).unwrap();
            assert_eq!(accepted(&inbound, &c), to("10.0.0.2:80"));
            let c = pod.dial(None, "127.0.0.1:80", Some(MARK)).unwrap();
            assert_eq!(app.accept().unwrap().1, c.local_addr().unwrap());

            // Cleaned, everything goes its way.
            pod.net.run(|| clean().unwrap()).unwrap();
            let c = pod.dial(None, "198.51.100.1:80", None).unwrap();
            assert_eq!(web.accept().unwrap().1, c.local_addr().unwrap());
        },
    );
}

#[test]
fn dns_to_the_resolvers_alone_is_captured() {
    inside("capture::tests::dns_to_the_resolvers_alone_is_captured", || {
        let pod = Pod::new();
        pod.apply(Plan {
            resolvers: resolvers("nameserver 10.96.0.10"),
            ..Plan::default()
        });
        let proxy = pod
            .net
            .run(|| UdpSocket::bind("127.0.0.1:15053").unwrap())
            .unwrap();
        let other = UdpSocket::bind("10.96.0.11:53").unwrap();
        let upstream = UdpSocket::bind("10.96.0.10:53").unwrap();
        for s in [&proxy, &other, &upstream] {
            s.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        }
        let mut buffer = [0; 16];

        // The answer comes back from the address that was asked.
        let app = pod.net.run(|| UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
        app.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        app.send_to(b"who?", "10.96.0.10:53").unwrap();
        let (n, from) = proxy.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..n], b"who?");
        proxy.send_to(b"me", from).unwrap();
        let (n, from) = app.recv_from(&mut buffer).unwrap();
        assert_eq!(
            (&buffer[..n], from.to_string().as_str()),
            (&b"me"[..], "10.96.0.10:53")
        );

        app.send_to(b"other", "10.96.0.11:53").unwrap();
        assert_eq!(other.recv_from(&mut buffer).unwrap().0, 5);

        let marked = pod.net.run(|| UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
        setsockopt(&marked, Mark, &MARK).unwrap();
        marked.send_to(b"forwarded", "10.96.0.10:53").unwrap();
        assert_eq!(upstream.recv_from(&mut buffer).unwrap().0, 9);

        let tcp = pod.listen("0.0.0.0:15053");
        let c = pod.dial(None, "10.96.0.10:53", None).unwrap();
        assert_eq!(accepted(&tcp, &c), "10.96.0.10:53".parse().unwrap());
    });
}

#[test]
fn ipv6_is_captured_when_asked_for() {
    inside("capture::tests::ipv6_is_captured_when_asked_for", || {
        let pod = Pod::new();
        Handle::open()
            .unwrap()
            .add_address("pod", "fd00::1/64".parse().unwrap())
            .unwrap();
        pod.net
            .run(|| {
                Handle::open()
                    .unwrap()
                    .add_address("eth0", "fd00::2/64".parse().unwrap())
                    .unwrap()
            })
            .unwrap();
        let proxy = pod.listen("[::]:15001");
        let far = outside("[fd00::1]:80");
        let dial = || {
            pod.net
                .run(|| TcpStream::connect("[fd00::1]:80").unwrap())
                .unwrap()
        };

        pod.apply(Plan::default());
        let c = dial();
        assert_eq!(proxy.accept().unwrap().1, c.local_addr().unwrap());
        pod.apply(Plan {
            ipv6: false,
            ..Plan::default()
        });
        let c = dial();
        assert_eq!(far.accept().unwrap().1, c.local_addr().unwrap());
    });
}

/// What a router of a cluster does: balances, hides what leaves, drops and refuses; and a changed
/// program leaves the connections that are there.
#[test]
fn a_router_balances_masquerades_drops_and_refuses() {
    use crate::nft::{Chain, Kind, Match, Point, Table, Transport, Verdict, replace};
    inside(
        "capture::tests::a_router_balances_masquerades_drops_and_refuses",
        || {
            // internet 198.51.100.1 -- (here, the router: .254, 10.0.0.1) -- pods 10.0.0.2, 10.0.0.3
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
            let mut router = Handle::open().unwrap();
            let far = NetNs::create().unwrap();
            router
                .add_veth("internet", "eth0", PeerNamespace::Fd(far.as_fd()))
                .unwrap();
            router.set_up("internet").unwrap();
            router
                .add_address("internet", "198.51.100.254/24".parse().unwrap())
                .unwrap();
            far.run(|| {
                let mut h = Handle::open().unwrap();
                h.set_up("eth0").unwrap();
                h.add_address("eth0", "198.51.100.1/24".parse().unwrap()).unwrap();
                // The public address of the service lies behind the router.
                h.add_route(
                    "198.51.100.7/32".parse().unwrap(),
                    "198.51.100.254".parse().unwrap(),
                )
                .unwrap();
                h.add_route("10.0.0.0/8".parse().unwrap(), "198.51.100.254".parse().unwrap())
                    .unwrap();
            })
            .unwrap();
            let pods: Vec<NetNs> = (2..=3)
                .map(|i| {
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
                        h.add_link_route("10.0.0.1/32".parse().unwrap(), "eth0").unwrap();
                        h.add_default_route("10.0.0.1".parse().unwrap()).unwrap();
                    })
                    .unwrap();
                    ns
                })
                .collect();

            let program = |targets: &[&str]| {
                let tcp = || Match::Transport(Transport::Tcp);
                let public = || Match::Destination("198.51.100.7/32".parse().unwrap());
                let mut nat = Chain::base("dnat", Kind::Nat, Point::Prerouting, -100);
                let targets = targets.iter().map(|t| t.parse().unwrap()).collect();
                nat.rule([public(), tcp(), Match::Port(80)], Verdict::Dnat(targets));
                let mut filter = Chain::base("forward", Kind::Filter, Point::Forward, 0);
                filter.rule([Match::Established], Verdict::Accept);
                filter.rule([Match::DestinationTranslated], Verdict::Accept);
                filter.rule([public(), tcp()], Verdict::RejectTcpReset);
                filter.rule([Match::InLink("internet".into())], Verdict::Drop);
                let mut input = Chain::base("input", Kind::Filter, Point::Input, 0);
                input.rule(
                    [Match::InLink("internet".into()), tcp(), Match::Port(9)],
                    Verdict::RejectTcpReset,
                );
                let mut snat = Chain::base("snat", Kind::Nat, Point::Postrouting, 100);
                snat.rule([Match::OutLink("internet".into())], Verdict::Masquerade);
                Table {
                    name: "router".into(),
                    chains: vec![nat, filter, input, snat],
                }
            };
            replace(&program(&["10.0.0.2:8080", "10.0.0.3:8080"])).unwrap();

            let apps: Vec<TcpListener> = pods
                .iter()
                .map(|p| p.run(|| TcpListener::bind("0.0.0.0:8080").unwrap()).unwrap())
                .collect();
            let dial = |to: &str| {
                far.run(|| TcpStream::connect_timeout(&to.parse().unwrap(), Duration::from_millis(1500)))
                    .unwrap()
            };
            let clients: Vec<TcpStream> = (0..6).map(|_| dial("198.51.100.7:80").unwrap()).collect();
            let mut servers = Vec::new();
            for app in &apps {
                // Six connections to two pods, in turn: three each.
                servers.extend((0..3).map(|_| app.accept().unwrap().0));
                app.set_nonblocking(true).unwrap();
                assert!(app.accept().is_err());
            }

            // The program changes while connections live.
            replace(&program(&["10.0.0.3:8080"])).unwrap();
            for mut c in &clients {
                c.write_all(b"x").unwrap();
            }
            for s in &mut servers {
                s.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
                let mut b = [0; 1];
                s.read_exact(&mut b).unwrap();
            }

            // What leaves has the router's address; what comes uninvited is dropped, not refused.
            let web = far.run(|| TcpListener::bind("198.51.100.1:80").unwrap()).unwrap();
            let _c = pods[0]
                .run(|| TcpStream::connect("198.51.100.1:80").unwrap())
                .unwrap();
            assert_eq!(web.accept().unwrap().1.ip().to_string(), "198.51.100.254");
            assert_eq!(
                dial("10.0.0.2:8080").unwrap_err().kind(),
                std::io::ErrorKind::TimedOut
            );
            assert_eq!(
                dial("198.51.100.254:9").unwrap_err().kind(),
                std::io::ErrorKind::ConnectionRefused
            );
        },
    );
}
