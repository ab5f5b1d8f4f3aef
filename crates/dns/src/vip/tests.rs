use super::*;

fn hosts(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|i| format!("svc-{i}.example.com")).collect()
}

#[test]
fn both_ranges_carry_one_number() {
    let vip = Vip::of("240.240.1.2".parse().unwrap()).unwrap();
    assert_eq!(vip.v4().to_string(), "240.240.1.2");
    assert_eq!(vip.v6().to_string(), "2001:2::f0f0:102");
    assert_eq!(Vip::of(vip.v6().into()), Some(vip));
    for other in [
        "240.240.1.0",
        "240.240.1.255",
        "240.241.1.2",
        "2001:2:0:1::f0f0:102",
        "10.0.0.1",
    ] {
        assert_eq!(Vip::of(other.parse().unwrap()), None, "{other}");
    }
}

#[test]
fn an_address_once_given_stays_whatever_else_comes_and_goes() {
    let mut allocator = VipAllocator::new();
    let first = allocator.assign(hosts(0..500));
    let wider = allocator.assign(hosts(0..2000));
    assert!(first.iter().all(|(host, vip)| wider[host] == *vip));
    let narrower = allocator.assign(hosts(100..300));
    assert_eq!(narrower.len(), 200);
    assert!(narrower.iter().all(|(host, vip)| first[host] == *vip));
    // Whoever comes back finds its address again.
    let back = allocator.assign(hosts(0..500));
    assert_eq!(back, first);
}

#[test]
fn a_restart_changes_nothing() {
    let mut allocator = VipAllocator::new();
    allocator.assign(hosts(0..300));
    allocator.assign(hosts(50..300));
    let text = serde_json::to_string(&allocator.to_state()).unwrap();
    let (mut restored, dropped) = VipAllocator::from_state(&serde_json::from_str(&text).unwrap());
    assert_eq!(dropped, Vec::<String>::new());
    assert_eq!(restored, allocator);
    assert_eq!(restored.assign(hosts(0..310)), allocator.assign(hosts(0..310)));
}

#[test]
fn colliding_hosts_never_share() {
    let mut allocator = VipAllocator::new();
    // 20,000 hosts over 65,024 numbers collide thousands of times.
    let given = allocator.assign(hosts(0..20_000));
    let distinct: BTreeSet<Vip> = given.values().copied().collect();
    assert_eq!((given.len(), distinct.len()), (20_000, 20_000));
    assert!(distinct.iter().all(|v| Vip::of(v.v4().into()).is_some()));
}

#[test]
fn the_order_of_hosts_does_not_matter() {
    let mut forward = VipAllocator::new();
    let mut backward = VipAllocator::new();
    let list = hosts(0..3000);
    assert_eq!(forward.assign(&list), backward.assign(list.iter().rev()));
}

#[test]
fn released_addresses_rest_until_nothing_else_is_free() {
    // All but the 254 numbers of 240.240.0.0/24 are the users' own, so that the rest fills up quickly.
    let all = 254;
    let scarce = || {
        let mut allocator = VipAllocator::new();
        allocator.reserve((1..=255).flat_map(|x| (1..255).map(move |y| IpAddr::from([240, 240, x, y]))));
        allocator
    };
    let mut allocator = scarce();
    assert_eq!(allocator.assign(hosts(0..all)).len(), all);
    // No room at all: the new host has none, and nobody lost theirs.
    assert_eq!(allocator.assign(hosts(0..all + 1)).len(), all);

    let mut allocator = scarce();
    let before = allocator.assign(hosts(0..all - 2));
    allocator.assign(hosts(1..all - 2)); // svc-0 leaves first
    allocator.assign(hosts(2..all - 2)); // then svc-1
    let zero = before["svc-0.example.com"];
    let one = before["svc-1.example.com"];
    let with = |n: usize| {
        hosts(2..all - 2)
            .into_iter()
            .chain((0..n).map(|i| format!("new-{i}")))
    };
    let now = allocator.assign(with(2));
    assert!(![zero, one].contains(&now["new-0"]) && ![zero, one].contains(&now["new-1"]));
    assert_eq!(
        allocator.assign(with(3))["new-2"],
        zero,
        "the longest gone is reused first"
    );
    assert_eq!(allocator.assign(with(4))["new-3"], one);
}

#[test]
fn what_users_wrote_themselves_is_never_given() {
    let mut allocator = VipAllocator::new();
    let given = allocator.assign(["a", "b"]);
    let own = given["a"];
    allocator.reserve([own.v4().into(), "10.0.0.1".parse().unwrap()]);
    let now = allocator.assign(["a", "b"]);
    assert_ne!(now["a"], own);
    assert_eq!(now["b"], given["b"]);
}

#[test]
fn a_damaged_state_costs_only_the_damaged_hosts() {
    let text = r#"{"assigned": {"a": "240.240.0.1", "b": "240.240.0.1", "c": "10.0.0.1", "d": "240.240.0.4"},
                   "released": [{"host": "e", "address": "240.240.0.4"}, {"host": "f", "address": "240.240.0.6"}]}"#;
    let (mut allocator, dropped) = VipAllocator::from_state(&serde_json::from_str(text).unwrap());
    assert_eq!(dropped.len(), 3, "{dropped:?}");
    let given = allocator.assign(["a", "b", "c", "d", "e", "f"]);
    assert_eq!(given["a"].v4().to_string(), "240.240.0.1");
    assert_eq!(given["d"].v4().to_string(), "240.240.0.4");
    assert_eq!(given["f"].v4().to_string(), "240.240.0.6");
    assert_eq!(given.values().collect::<BTreeSet<_>>().len(), 6);
}
