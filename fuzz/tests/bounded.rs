//! Every target for a fixed number of inputs that are the same in every run.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use isthmus_fuzz::run::{Until, one};
use isthmus_fuzz::targets::{Kind, Target};
use isthmus_fuzz::{TARGETS, fuzz};

macro_rules! targets {
    ($($name:ident),+ $(,)?) => {
        $(
            #[test]
            fn $name() {
                let target = TARGETS.iter().find(|t| t.name == stringify!($name)).expect("a target");
                if let Err(failure) = fuzz(target, 1, Until::Inputs(target.inputs)) {
                    panic!("{failure}");
                }
            }
        )+

        #[test]
        fn every_target_is_run() {
            let run = [$(stringify!($name)),+];
            for target in TARGETS {
                assert!(run.contains(&target.name), "{} is in no test", target.name);
            }
        }
    };
}

targets!(
    yaml,
    compile,
    admission,
    bootstrap,
    resources,
    discovery,
    peering,
    client_hello,
    sniff,
    proxy_protocol,
    dns,
    paths,
    formats,
    certificates,
    tokens,
    sandbox,
    names,
);

/// A target that fails in each of the ways there are.
const BROKEN: Target = Target {
    name: "broken",
    kind: Kind::Bytes,
    inputs: 0,
    seeds: || vec![b"fine".to_vec()],
    run: |input| match input {
        b"panic" => panic!("as asked"),
        b"memory" => drop(std::hint::black_box(vec![1u8; 300 << 20])),
        _ => {}
    },
};

#[test]
fn a_panic_and_a_feast_are_told() {
    assert!(one(&BROKEN, b"fine").is_ok());
    let failure = one(&BROKEN, b"panic").unwrap_err();
    assert!(failure.to_string().contains("as asked"), "{failure}");
    let failure = one(&BROKEN, b"memory").unwrap_err();
    assert!(failure.reason.starts_with("held "), "{failure}");
}
