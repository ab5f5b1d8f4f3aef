use super::*;

fn table() -> Table {
    let mut nat = Chain::base("dnat", Kind::Nat, Point::Prerouting, -100);
    let tcp = Match::Transport(Transport::Tcp);
    nat.rule(
        [
            Match::Destination("198.51.100.7/32".parse().unwrap()),
            tcp.clone(),
            Match::Port(80),
        ],
        Verdict::Dnat(vec![
            "10.0.0.1:8080".parse().unwrap(),
            "10.0.0.2:8081".parse().unwrap(),
        ]),
    );
    nat.rule(
        [tcp.clone(), Match::PortRange(100, 200)],
        Verdict::Dnat(vec!["[fd00::1]:99".parse().unwrap()]),
    );
    let mut filter = Chain::base("forward", Kind::Filter, Point::Forward, 0);
    filter.rule([Match::Established], Verdict::Accept);
    filter.rule(
        [
            Match::InLinkPrefix("pod".into()),
            Match::NotDestination("10.8.0.0/13".parse().unwrap()),
        ],
        Verdict::Accept,
    );
    filter.rule(
        [Match::Destinations(
            ["10.1.1.1".parse().unwrap(), "10.1.1.2".parse().unwrap()].into(),
        )],
        Verdict::Reject,
    );
    filter.rule([tcp.clone()], Verdict::RejectTcpReset);
    filter.counted(
        [Match::DestinationTranslated, Match::DestinationLocal],
        Verdict::Jump("more".into()),
    );
    filter.rule([], Verdict::Drop);
    let mut more = Chain::regular("more");
    more.rule([tcp, Match::Ports([80, 443].into())], Verdict::SetMark(7));
    let mut snat = Chain::base("snat", Kind::Nat, Point::Postrouting, 100);
    snat.rule([Match::OutLink("internet".into())], Verdict::Masquerade);
    Table {
        name: "story".into(),
        chains: vec![nat, filter, more, snat],
    }
}

#[test]
fn text_is_what_nft_reads() {
    let text = table().to_string();
    for line in [
        "table inet story {",
        "type nat hook prerouting priority -100; policy accept;",
        "ip daddr 198.51.100.7/32 tcp dport 80 dnat ip to numgen inc mod 2 map { 0 : 10.0.0.1 . 8080, 1 : 10.0.0.2 . 8081 }",
        "tcp dport 100-200 dnat ip6 to [fd00::1]:99",
        "iifname \"pod*\" ip daddr != 10.8.0.0/13 accept",
        "meta l4proto tcp reject with tcp reset",
        "ct status dnat fib daddr type local counter jump more",
        "tcp dport { 80, 443 } meta mark set 0x7",
        "oifname \"internet\" masquerade",
    ] {
        assert!(text.contains(line), "{line:?} in\n{text}");
    }
}

/// `ip daddr 10.8.0.0/13 return`: the bytes of the expressions, as `nft --debug=netlink` names them.
#[test]
fn a_rule_is_these_bytes() {
    let rule = Rule {
        matches: vec![Match::Destination("10.8.0.0/13".parse().unwrap())],
        counter: false,
        verdict: Verdict::Return,
    };
    let mut m = crate::netlink::Message::new(0, 0);
    expression::write(&rule, &mut expression::Sets::default(), &mut m);
    let bytes = m.finish(0).unwrap();
    let mut seen = Vec::new();
    for e in crate::netlink::Attributes::new(&bytes[16..]) {
        let e = e.unwrap().nested();
        let name = e.clone().find(1).unwrap().unwrap().text().unwrap().to_owned();
        let data = e.find(2).unwrap().unwrap().value.to_vec();
        seen.push((name, data));
    }
    let names: Vec<&str> = seen.iter().map(|(n, _)| n.as_str()).collect();
    assert_eq!(names, ["meta", "cmp", "payload", "bitwise", "cmp", "immediate"]);
    // payload load 4b @ network header + 16 => reg 1: four attributes of 8 bytes, values in network order.
    let payload: Vec<u8> = [(1_u16, 1_u32), (2, 1), (3, 16), (4, 4)]
        .iter()
        .flat_map(|(k, v)| {
            [
                &8_u16.to_ne_bytes()[..],
                &k.to_ne_bytes()[..],
                &v.to_be_bytes()[..],
            ]
            .concat()
        })
        .collect();
    assert_eq!(seen[2].1, payload);
    // bitwise reg 1 = (reg 1 & fff80000) ^ 0.
    let mask = [255, 248, 0, 0];
    assert!(seen[3].1.windows(4).any(|w| w == mask), "{:?}", seen[3].1);
    // cmp eq reg 1 0a080000.
    assert!(seen[4].1.ends_with(&[10, 8, 0, 0]));
    // NFT_RETURN is -5.
    assert!(seen[5].1.ends_with(&(-5_i32).to_be_bytes()));
}

#[test]
fn nonsense_is_refused_before_the_kernel_is_asked() {
    let refused = |rule: (Vec<Match>, Verdict), kind: Kind| {
        let mut c = Chain::base("c", kind, Point::Prerouting, 0);
        c.rule(rule.0, rule.1);
        let t = Table {
            name: "t".into(),
            chains: vec![c],
        };
        batch::check(&t).unwrap_err().to_string()
    };
    let tcp = Match::Transport(Transport::Tcp);
    for (rule, kind, word) in [
        ((vec![Match::Port(80)], Verdict::Accept), Kind::Nat, "transport"),
        (
            (vec![tcp.clone()], Verdict::Jump("nowhere".into())),
            Kind::Nat,
            "not in the table",
        ),
        (
            (vec![tcp.clone()], Verdict::Redirect(1)),
            Kind::Filter,
            "kind nat",
        ),
        ((vec![tcp.clone()], Verdict::Dnat(vec![])), Kind::Nat, "target"),
        (
            (
                vec![tcp.clone()],
                Verdict::Dnat(vec!["1.1.1.1:1".parse().unwrap(), "[::1]:1".parse().unwrap()]),
            ),
            Kind::Nat,
            "mix",
        ),
        ((vec![], Verdict::RejectTcpReset), Kind::Filter, "TCP"),
        (
            (vec![tcp, Match::Ports(Default::default())], Verdict::Accept),
            Kind::Nat,
            "empty",
        ),
    ] {
        let e = refused(rule, kind);
        assert!(e.contains(word), "{e}");
    }
    assert!(
        replace(&Table {
            name: "a/b".into(),
            chains: vec![]
        })
        .is_err()
    );
}

/// The kernel takes the whole table, gives it back as it was programmed, and notices a difference.
#[test]
fn the_kernel_takes_it_and_gives_it_back() {
    crate::netns::tests::inside("nft::tests::the_kernel_takes_it_and_gives_it_back", || {
        let t = table();
        replace(&t).unwrap();
        verify(&t).unwrap();
        replace(&t).unwrap();
        verify(&t).unwrap();

        let mut changed = t.clone();
        changed.chains[0].rules[1].matches[1] = Match::PortRange(100, 201);
        let e = verify(&changed).unwrap_err().to_string();
        assert!(e.contains("chain dnat: rule 2"), "{e}");

        // So is one target of a balanced translation, and one port of a set.
        let mut changed = t.clone();
        changed.chains[0].rules[0].verdict = Verdict::Dnat(vec![
            "10.0.0.1:8080".parse().unwrap(),
            "10.0.0.2:8082".parse().unwrap(),
        ]);
        assert!(
            verify(&changed)
                .unwrap_err()
                .to_string()
                .contains("chain dnat: rule 1")
        );
        let mut changed = t.clone();
        changed.chains[2].rules[0].matches[1] = Match::Ports([80, 444].into());
        assert!(
            verify(&changed)
                .unwrap_err()
                .to_string()
                .contains("chain more: rule 1")
        );

        // A program that the kernel refuses leaves what was there.
        let mut refused = t.clone();
        refused.chains[2].rule([], Verdict::Masquerade);
        let e = replace(&refused).unwrap_err().to_string();
        assert!(e.contains("story"), "{e}");
        verify(&t).unwrap();

        delete("story").unwrap();
        assert!(read("story").unwrap().is_none());
        delete("story").unwrap();
        assert!(verify(&t).unwrap_err().to_string().contains("not there"));
    });
}
