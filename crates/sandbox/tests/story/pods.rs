//! The life of pods.

use std::collections::BTreeMap;
use std::time::Duration;

use isthmus_sandbox::plan::{Check, Program};

use super::{Sandbox, container, eventually, http, log_of, plan, server};

pub async fn live_and_die(sandbox: Sandbox) {
    let us = sandbox.cluster("us");
    let token = "/var/run/secrets/tokens/istio-token";
    let config = "/etc/story/nested/config.yaml";
    let mut plan = plan(&us, "web", vec![server("web")]);
    plan.files = BTreeMap::from([
        (token.into(), b"first".to_vec()),
        (config.into(), b"a: 1\n".to_vec()),
    ]);
    plan.containers[0].env = vec![("GREETING".into(), "hello from $(POD_IP)".into())];
    let key = plan.key.clone();
    let status = sandbox.pods.start(plan.clone()).unwrap();
    assert!(!status.ready());
    assert!(sandbox.pods.start(plan).is_err(), "one pod of a name");
    let status = sandbox.until(&key, |s| s.ready()).await;

    // What it sees: its own names, files and host name; the rest of the machine as it is.
    let shell = async |script: &str| sandbox.exec(&key, &["sh", "-c", script]).await;
    assert_eq!(
        shell("cat /etc/resolv.conf").await.0,
        "nameserver 10.10.128.10\nsearch default.svc.cluster.local svc.cluster.local\noptions ndots:5\n"
    );
    assert!(shell("cat /etc/hosts").await.0.contains("10.10.0.2\tweb"));
    assert_eq!(
        shell(&format!(
            "cat {token} {config}; test -e /etc/passwd && echo passwd"
        ))
        .await
        .0,
        "firsta: 1\npasswd\n"
    );
    assert_eq!(
        shell("cat /proc/sys/kernel/hostname; echo $GREETING").await.0,
        "web\nhello from 10.10.0.2\n"
    );
    // It inherits nothing of the supervisor's but the three descriptors (the fourth is the listed directory).
    assert_eq!(
        sandbox.exec(&key, &["ls", "-1", "/proc/self/fd"]).await.0,
        "0\n1\n2\n3\n"
    );
    assert_eq!(shell("ulimit -Sn").await.0, shell("ulimit -Hn").await.0);
    assert_eq!(shell("exit 7").await.1, 7);
    assert_eq!(shell("kill -TERM $$").await.1, 128 + 15);
    assert!(
        !std::path::Path::new(config).exists(),
        "the machine's own /etc is untouched"
    );
    sandbox
        .pods
        .update_files(&key, &BTreeMap::from([(token.into(), b"second".to_vec())]))
        .unwrap();
    assert_eq!(shell(&format!("cat {token}")).await.0, "second");
    assert!(
        sandbox
            .pods
            .update_files(&key, &BTreeMap::from([("/etc/passwd".into(), vec![])]))
            .is_err()
    );

    // Not ready while its probe fails, and the reason is said.
    shell("touch /run/sick").await;
    let sick = sandbox.until(&key, |s| !s.ready()).await;
    assert!(sick.containers["app"].reason.contains("status 503"), "{sick:?}");
    shell("rm /run/sick").await;
    sandbox.until(&key, |s| s.ready()).await;

    // A crash, by itself and by a signal: started again, counted, logged.
    let before = status.containers["app"].pid;
    sandbox.get(&key, "http://127.0.0.1/crash").await;
    let again = sandbox
        .until(&key, |s| s.ready() && s.containers["app"].restarts == 1)
        .await;
    assert_ne!(again.containers["app"].pid, before);
    sandbox.pods.kill_container(&key, "app", 9).unwrap();
    sandbox
        .until(&key, |s| s.ready() && s.containers["app"].restarts == 2)
        .await;
    assert!(sandbox.pods.kill_container(&key, "nothing", 9).is_err());
    assert_eq!(
        log_of(&sandbox, &key),
        "web listens\nweb crashes\nweb listens\nweb listens\n"
    );

    // Held down, it does not come back by itself.
    sandbox.pods.hold(&key, None).unwrap();
    let held = sandbox
        .until(&key, |s| s.containers["app"].reason == "stopped on purpose")
        .await;
    assert!(!held.ready() && held.containers["app"].pid.is_none(), "{held:?}");
    assert!(
        sandbox.pods.kill_container(&key, "app", 9).is_err(),
        "nothing runs"
    );
    assert!(sandbox.pods.hold(&key, Some("nothing")).is_err());
    sandbox.pods.release(&key, Some("app")).unwrap();
    sandbox
        .until(&key, |s| s.ready() && s.containers["app"].restarts == 3)
        .await;

    // A command that is running takes signals; one that was left behind ends with its pod.
    let (out, into) = std::io::pipe().unwrap();
    let null = || std::fs::File::open("/dev/null").unwrap().into();
    let sleep = ["sleep".to_owned(), "1000".to_owned()];
    let mut exec = sandbox
        .pods
        .exec(&key, &sleep, &[], None, [null(), into.into(), null()])
        .unwrap();
    drop(out);
    assert!(exec.signal(2));
    assert_eq!(exec.wait().await, 128 + 2);
    assert!(!exec.signal(2));
    let (out, into) = std::io::pipe().unwrap();
    let pwd = ["sh".to_owned(), "-c".to_owned(), "pwd; echo $EXTRA".to_owned()];
    let extra = [("EXTRA".to_owned(), "more".to_owned())];
    let place = Some("/run/isthmus".into());
    let mut exec = sandbox
        .pods
        .exec(&key, &pwd, &extra, place, [null(), into.into(), null()])
        .unwrap();
    assert_eq!(exec.wait().await, 0);
    assert_eq!(std::io::read_to_string(out).unwrap(), "/run/isthmus\nmore\n");
    let (_, code) = shell("setsid sleep 1000 >/dev/null 2>&1 & setsid sleep 1000 >/dev/null 2>&1 &").await;
    assert_eq!(code, 0);
    let sleepers = || {
        std::fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter(|e| {
                std::fs::read(e.path().join("cmdline")).is_ok_and(|c| c.starts_with(b"sleep\x001000"))
            })
            .count()
    };
    eventually("two sleepers", async || sleepers() == 2).await;
    sandbox.pods.stop(&key, Duration::from_secs(5)).await.unwrap();
    eventually("no sleepers, reaped", async || sleepers() == 0).await;
    assert!(
        sandbox.pods.stop(&key, Duration::ZERO).await.is_err(),
        "it is gone"
    );

    // What cannot run says so, and goes on trying.
    let mut missing = container("app", &[]);
    missing.program = Program::Host(vec!["/no/such/program".into()]);
    let missing = super::plan(&us, "missing", vec![missing]);
    sandbox.pods.start(missing.clone()).unwrap();
    let failed = sandbox
        .until(&missing.key, |s| s.containers["app"].restarts >= 1)
        .await;
    assert!(
        failed.containers["app"].reason.contains("/no/such/program"),
        "{failed:?}"
    );

    // Probes of the other kinds.
    let mut other = server("other");
    let mut probe = http(80);
    probe.check = Check::Exec(vec!["test".into(), "-e".into(), "/run/well".into()]);
    other.readiness = Some(probe.clone());
    let other = super::plan(&us, "other", vec![other]);
    sandbox.pods.start(other.clone()).unwrap();
    sandbox
        .until(&other.key, |s| s.containers["app"].reason.contains("test"))
        .await;
    sandbox.exec(&other.key, &["touch", "/run/well"]).await;
    sandbox.until(&other.key, |s| s.ready()).await;
    let mut tcp = server("tcp");
    probe.check = Check::Tcp { port: 80 };
    tcp.readiness = Some(probe);
    let tcp = super::plan(&us, "tcp", vec![tcp]);
    sandbox.pods.start(tcp.clone()).unwrap();
    sandbox.until(&tcp.key, |s| s.ready()).await;
    sandbox.pods.stop_all(Duration::from_secs(5)).await;
    assert!(sandbox.pods.statuses().borrow().is_empty());
}

/// The sidecar is ready before the application starts; the application's traffic goes to it, and the
/// probe of the application does not.
pub async fn sidecar_first(sandbox: Sandbox) {
    let us = sandbox.cluster("us");
    let far = sandbox.serving(&us, "far").await;
    let mut inbound = container("inbound", &["serve", "15006", "inbound"]);
    inbound.order = isthmus_sandbox::plan::Order::HoldsUntilReady;
    inbound.readiness = Some(http(15006));
    let outbound = container("outbound", &["serve", "15001", "outbound"]);
    let mut plan = plan(&us, "meshed", vec![inbound, outbound, server("meshed")]);
    plan.capture = Some(BTreeMap::from([(
        "traffic.sidecar.istio.io/excludeOutboundPorts".to_owned(),
        "8080".to_owned(),
    )]));
    let key = plan.key.clone();
    // While the sidecar is not ready nothing else starts.
    plan.containers[0].program = Program::Host(vec!["sleep".into(), "1000".into()]);
    sandbox.pods.start(plan.clone()).unwrap();
    let held = sandbox
        .until(&key, |s| s.containers["inbound"].reason.contains("refused"))
        .await;
    assert_eq!(held.containers["app"].reason, "waiting");
    sandbox.pods.stop(&key, Duration::ZERO).await.unwrap();

    plan.containers[0].program = Program::Isthmus(vec!["serve".into(), "15006".into(), "inbound".into()]);
    sandbox.pods.start(plan.clone()).unwrap();
    let meshed = sandbox.until(&key, |s| s.ready()).await;
    let from_far = sandbox
        .get(&far.key, &format!("http://{}/", meshed.address))
        .await;
    assert_eq!(from_far, format!("inbound to {}", far.address));
    eventually("the second sidecar listens", async || {
        sandbox
            .get(&key, &format!("http://{}/", far.address))
            .await
            .starts_with("outbound to")
    })
    .await;
    assert_eq!(
        sandbox.get(&key, "http://127.0.0.1/").await,
        "meshed to 127.0.0.1"
    );

    // An annotation that cannot be read is said when the pod is started.
    let mut wrong = super::plan(&us, "wrong", vec![]);
    wrong.capture = Some(BTreeMap::from([(
        "traffic.sidecar.istio.io/excludeInboundPorts".into(),
        "ssh".into(),
    )]));
    let e = sandbox.pods.start(wrong).unwrap_err();
    assert!(e.to_string().contains("excludeInboundPorts"), "{e}");
}
