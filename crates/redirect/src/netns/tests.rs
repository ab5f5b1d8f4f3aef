use std::process::Command;

use nix::errno::Errno;
use nix::sched::CloneFlags;

use super::*;

/// Runs `body` as root of new user, network and mount namespaces: the test starts itself once more
/// there, by its own name.
pub(crate) fn inside(name: &str, body: impl FnOnce()) {
    const INSIDE: &str = "ISTHMUS_TEST_INSIDE";
    if std::env::var_os(INSIDE).is_some() {
        crate::rtnetlink::Handle::open().unwrap().set_up("lo").unwrap();
        body();
        return;
    }
    let mut again = Command::new(std::env::current_exe().unwrap());
    again
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1");
    isolate(
        &mut again,
        CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS,
    );
    let out = again.output().expect("namespaces are allowed on this machine");
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(
        out.status.success() && text.contains("1 passed"),
        "{name}:\n{text}\n{}",
        String::from_utf8_lossy(&out.stderr)
    );
}

#[test]
fn a_namespace_has_only_its_loopback_and_goes_with_its_holder() {
    inside(
        "netns::tests::a_namespace_has_only_its_loopback_and_goes_with_its_holder",
        || {
            let ns = NetNs::create().unwrap();
            let links = ns
                .run(|| crate::rtnetlink::Handle::open().unwrap().links().unwrap())
                .unwrap();
            assert_eq!(links.len(), 1);
            assert!(links[0].up && links[0].name == "lo");

            let mut here = crate::rtnetlink::Handle::open().unwrap();
            here.add_veth("near", "far", crate::rtnetlink::PeerNamespace::Fd(ns.as_fd()))
                .unwrap();
            assert!(here.link("near").is_ok());
            drop(ns);
            // The other end dies with its namespace, and takes this one along; the kernel does it in its own time.
            let gone = (0..500).any(|_| {
                std::thread::sleep(std::time::Duration::from_millis(20));
                here.link("near").is_err()
            });
            assert!(gone);
        },
    );
}

#[test]
fn mounts_stay_in_their_namespace() {
    inside("netns::tests::mounts_stay_in_their_namespace", || {
        let dir = std::env::temp_dir().join(format!("isthmus-mounts-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let hosts = dir.join("hosts");
        std::fs::write(&hosts, "10.0.0.1 here\n").unwrap();
        let fresh = dir.join("run");
        std::fs::create_dir(&fresh).unwrap();
        let link = dir.join("resolv.conf");
        std::os::unix::fs::symlink("run/systemd/stub", &link).unwrap();
        let ns = MountNs::create(|| {
            tmpfs(&fresh, 1 << 20)?;
            write_beneath(&hosts, &link, &[&fresh])?;
            assert_eq!(std::fs::read_to_string(&link).unwrap(), "10.0.0.1 here\n");
            bind_read_only(&hosts, &hosts)?;
            assert!(std::fs::write(&hosts, "x").is_err());
            let e = write_beneath(&hosts, &dir.join("missing"), &[&fresh]).unwrap_err();
            assert!(e.to_string().contains("create it"), "{e}");
            Ok(())
        });
        ns.unwrap();
        assert!(std::fs::read_to_string(&link).is_err());
        std::fs::write(&hosts, "changed").unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
    });
}

#[test]
fn preflight_agrees_with_the_machine() {
    preflight().unwrap();
}

#[test]
fn what_forbids_namespaces_is_said_with_its_remedy() {
    let files = |list: &'static [(&'static str, &'static str)]| {
        move |path: &str| {
            list.iter()
                .find(|(p, _)| *p == path)
                .map(|(_, v)| (*v).to_owned())
        }
    };
    let said = |errno, root, list| preflight::explain(errno, root, files(list)).to_string();
    let apparmor = said(
        Errno::EPERM,
        false,
        &[("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1")],
    );
    assert!(
        apparmor.contains("sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"),
        "{apparmor}"
    );
    let debian = said(
        Errno::EPERM,
        false,
        &[("/proc/sys/kernel/unprivileged_userns_clone", "0")],
    );
    assert!(
        debian.contains("sysctl -w kernel.unprivileged_userns_clone=1"),
        "{debian}"
    );
    let limit = said(
        Errno::ENOSPC,
        false,
        &[("/proc/sys/user/max_user_namespaces", "0")],
    );
    assert!(limit.contains("sysctl -w user.max_user_namespaces"), "{limit}");
    let seccomp = said(
        Errno::EPERM,
        true,
        &[("/proc/self/status", "Name:\tx\nSeccomp:\t2\n")],
    );
    assert!(
        seccomp.contains("seccomp") && seccomp.contains("docker run"),
        "{seccomp}"
    );
    let bare = said(Errno::EPERM, true, &[]);
    assert!(bare.contains("CAP_SYS_ADMIN"), "{bare}");
}
