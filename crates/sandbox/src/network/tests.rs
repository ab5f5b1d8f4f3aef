use super::addresses::host;
use super::*;
use crate::plan::VirtualPort;

#[test]
fn ranges_of_clusters_are_apart() {
    let all: Vec<ClusterAddresses> = (0..).map_while(ClusterAddresses::at).collect();
    assert_eq!(all.len(), ClusterAddresses::CLUSTERS_MAX);
    for (i, a) in all.iter().enumerate() {
        assert!(a.pods.contains(&a.services) && a.pods.contains(&a.gateway));
        assert!(!a.services.contains(&a.gateway) && !a.services.contains(&a.pod(ClusterAddresses::PODS_MAX)));
        assert!(a.public.contains(&a.public_router));
        assert!(
            a.load_balancers()
                .all(|l| a.public.contains(&l) && l != a.public_router)
        );
        assert!(a.load_balancers().count() >= 20);
        for b in &all[i + 1..] {
            assert!(!a.pods.contains(&b.pods) && !a.public.contains(&b.public));
        }
        for own in [INTERNET, INTERNET_DNS] {
            assert!(!a.public.contains(&own));
        }
    }
}

#[test]
fn a_router_translates_what_has_targets_and_drops_what_is_uninvited() {
    let us = ClusterAddresses::at(0).unwrap();
    let service = |udp, port, targets: &[&str]| VirtualPort {
        udp,
        port,
        targets: targets.iter().map(|t| (t.parse().unwrap(), 8080)).collect(),
    };
    let balancer = VirtualAddress {
        address: "198.51.100.66".parse().unwrap(),
        ports: vec![
            service(false, 80, &["10.10.0.2", "10.10.0.3"]),
            service(false, 443, &[]),
        ],
    };
    let inside = VirtualAddress {
        address: "10.10.128.20".parse().unwrap(),
        ports: vec![service(true, 53, &["10.10.0.4"])],
    };
    let pods = [("10.10.0.2".parse().unwrap(), "p1".to_owned())].into_iter();
    let text = program::router(&us, &[balancer], &[inside], pods).to_string();
    for line in [
        "ip daddr 198.51.100.66/32 tcp dport 80 counter dnat ip to numgen inc mod 2 map { 0 : 10.10.0.2 . 8080, 1 : 10.10.0.3 . 8080 }",
        "ip daddr 10.10.128.20/32 udp dport 53 counter dnat ip to 10.10.0.4:8080",
        "ip saddr 10.10.0.2/32 oifname \"p1\" masquerade",
        "iifname \"internet\" counter drop",
    ] {
        assert!(text.contains(line), "{line:?} in\n{text}");
    }
    assert!(!text.contains("443"), "{text}");
}

#[test]
fn a_cut_link_is_cut_both_ways_and_alone() {
    let (us, eu) = (ClusterId::from("us"), ClusterId::from("eu"));
    let dropped = [
        Target::ClusterLink(us.clone(), eu),
        Target::Pod("10.10.0.2".parse().unwrap()),
    ]
    .into();
    let link = |id: &ClusterId| Some(if *id == us { "c0" } else { "c1" });
    let text = program::internet_faults(&dropped, link).to_string();
    assert!(
        text.contains("iifname \"c0\" oifname \"c1\" counter drop"),
        "{text}"
    );
    assert!(
        text.contains("iifname \"c1\" oifname \"c0\" counter drop"),
        "{text}"
    );
    assert_eq!(text.matches("drop").count(), 2, "{text}");
    assert_eq!(host(INTERNET).to_string(), "198.51.100.1/32");
}
