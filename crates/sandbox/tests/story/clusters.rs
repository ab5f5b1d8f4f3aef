//! Two clusters on two networks, and what lies between.

use std::net::SocketAddr;

use isthmus_sandbox::network::{INTERNET, Target};

use super::{Sandbox, eventually, service};

pub async fn tell(sandbox: Sandbox) {
    let (us, eu) = (sandbox.cluster("us"), sandbox.cluster("eu"));
    let network = &sandbox.network;
    let (sleep, web1, web2) = (
        sandbox.serving(&us, "sleep").await,
        sandbox.serving(&us, "web1").await,
        sandbox.serving(&us, "web2").await,
    );
    let far = sandbox.serving(&eu, "far").await;
    assert_eq!(sleep.address.to_string(), "10.10.0.2");
    assert_eq!(far.address.to_string(), "10.20.0.2");

    // Pods of one cluster reach each other as they are; those of another not at all.
    let from = &sleep.key;
    let url = |a: std::net::Ipv4Addr| format!("http://{a}/");
    assert_eq!(
        sandbox.get(from, &url(web1.address)).await,
        format!("web1 to {}", sleep.address)
    );
    let unreachable = sandbox.get(from, &url(far.address)).await;
    assert!(
        unreachable.contains("Unreachable") || unreachable == "TimedOut",
        "{unreachable}"
    );

    // A Service's address: in turn over its pods, the caller seen as it is; also a pod given itself.
    let ip = network.addresses(&us).unwrap().services.hosts().nth(99).unwrap();
    let port = 80;
    network
        .set_cluster_ips(&us, service(ip, &[(web1.address, port), (web2.address, port)]))
        .unwrap();
    let mut answers = Vec::new();
    for _ in 0..4 {
        answers.push(sandbox.get(from, &url(ip)).await);
    }
    answers.sort();
    let (a, b) = (
        format!("web1 to {}", sleep.address),
        format!("web2 to {}", sleep.address),
    );
    assert_eq!(answers, [a.clone(), a, b.clone(), b]);
    network
        .set_cluster_ips(&us, service(ip, &[(web1.address, port)]))
        .unwrap();
    let own = sandbox.get(&web1.key, &url(ip)).await;
    assert_eq!(own, "web1 to 10.10.0.1");
    network.set_cluster_ips(&us, service(ip, &[])).unwrap();
    assert_eq!(sandbox.get(from, &url(ip)).await, "ConnectionRefused");

    // A public address is reached from the other cluster, which is seen as its router.
    let public = network.addresses(&eu).unwrap().load_balancers().next().unwrap();
    assert_eq!(public.to_string(), "198.51.100.98");
    network
        .set_load_balancers(&eu, service(public, &[(far.address, port)]))
        .unwrap();
    let expected = format!("far to {}", network.addresses(&us).unwrap().public_router);
    assert_eq!(sandbox.get(from, &url(public)).await, expected);
    // And from the cluster itself, and from the internet.
    let inside = sandbox.get(&far.key, &url(public)).await;
    assert_eq!(inside, "far to 10.20.0.1");
    assert!(std::net::TcpStream::connect((public, port)).is_ok());
    let other = network.addresses(&eu).unwrap().load_balancers().nth(1).unwrap();
    assert_eq!(sandbox.get(from, &url(other)).await, "ConnectionRefused");
    let wrong = network.set_load_balancers(&us, service(public, &[])).unwrap_err();
    assert!(wrong.to_string().contains("public addresses"), "{wrong}");

    // Cut off, one after another, and back.
    for (target, from, url, answer) in [
        (
            Target::Pod(web1.address),
            from,
            url(web1.address),
            format!("web1 to {}", sleep.address),
        ),
        (Target::LoadBalancer(public), from, url(public), expected.clone()),
        (
            Target::ClusterLink(us.clone(), eu.clone()),
            from,
            url(public),
            expected.clone(),
        ),
    ] {
        assert_eq!(sandbox.get(from, &url).await, answer, "{target:?} before");
        network.drop_packets(target.clone()).unwrap();
        assert_eq!(network.dropped(), std::slice::from_ref(&target));
        assert_eq!(sandbox.get(from, &url).await, "TimedOut", "{target:?} dropped");
        // The rest lives.
        let other = sandbox.get(from, &format!("http://{}/", web2.address)).await;
        assert_eq!(other, format!("web2 to {}", sleep.address));
        network.restore(&target).unwrap();
        assert_eq!(sandbox.get(from, &url).await, answer, "{target:?} restored");
    }
    network
        .drop_packets(Target::ClusterLink(us.clone(), eu.clone()))
        .unwrap();
    assert!(
        std::net::TcpStream::connect((public, port)).is_ok(),
        "the internet itself is not cut"
    );
    network.restore(&Target::ClusterLink(us.clone(), eu)).unwrap();
    assert!(network.drop_packets(Target::Pod(INTERNET)).is_err());

    // A cluster's DNS listens at a Service's address, in the router.
    let dns = network.addresses(&us).unwrap().services.hosts().nth(9).unwrap();
    let (udp, tcp) = network.sockets_in(&us, SocketAddr::from((dns, 53))).unwrap();
    drop(udp);
    let tcp = tokio::net::TcpListener::from_std(tcp).unwrap();
    let asked = format!("http://{dns}:53/");
    let (peer, _) = tokio::join!(async { tcp.accept().await.unwrap().1 }, sandbox.get(from, &asked));
    assert_eq!(peer.ip(), sleep.address);

    // A pod that is gone is unreachable, and its address is not given again at once.
    sandbox
        .pods
        .stop(&web1.key, std::time::Duration::from_secs(5))
        .await
        .unwrap();
    let gone = sandbox.get(from, &url(web1.address)).await;
    assert!(gone.contains("Unreachable"), "{gone}");
    let next = sandbox.serving(&us, "web3").await;
    assert_eq!(next.address.to_string(), "10.10.0.5");
    eventually("the pod's processes end", async || {
        !sandbox.pods.statuses().borrow().contains_key(&web1.key)
    })
    .await;
}
