//! What crosses between the clusters, packet by packet, and what the memory of the gateways holds.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Seek, SeekFrom};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::demo::{ECHO, handshake};
use crate::harness::{Mesh, eventually};
use crate::program::run_with;

/// Nobody else in this suite sends from here, so its sidecar has no connection yet.
const FRESH: &str = "us/sleep.foo";
const SECRET: &str = "The-Duke-of-dark-corners-8f3a1c";

/// Packets of the demo's internet, as tcpdump writes them.
struct Capture {
    tcpdump: Child,
    file: PathBuf,
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.tcpdump.kill();
        let _ = self.tcpdump.wait();
    }
}

impl Capture {
    /// The internet is the network namespace of the process that everything in the demo descends from.
    fn of_the_internet(mesh: &Mesh, dir: &Path) -> Self {
        let supervisor = supervisor(mesh).to_string();
        let file = dir.join("internet.pcap");
        let mut nsenter = Command::new("nsenter");
        nsenter.args(["--target", &supervisor, "--net"]);
        if !nix::unistd::Uid::effective().is_root() {
            nsenter.args(["--user", "--preserve-credentials"]);
        }
        let tcpdump = nsenter
            .args([
                "tcpdump",
                "--immediate-mode",
                "-B",
                "32768",
                "-Z",
                "root",
                "-n",
                "-U",
                "-s",
                "0",
                "-i",
                "any",
                "-w",
            ])
            .arg(&file)
            .arg("tcp")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nsenter and tcpdump; run tests/interop/install.sh");
        let capture = Self { tcpdump, file };
        eventually("tcpdump listens", || {
            // It writes the header of the file once its socket is open.
            let size = std::fs::metadata(&capture.file).map_or(0, |m| m.len());
            if size > 0 {
                Ok(())
            } else {
                Err("no file yet".to_owned())
            }
        });
        capture
    }

    /// Streams by who sends to whom.
    fn streams(&self) -> BTreeMap<Flow, Stream> {
        streams(&std::fs::read(&self.file).expect("tcpdump wrote it"))
    }
}

/// Process id, as this machine sees it, of the first process in the demo's namespaces.
fn supervisor(mesh: &Mesh) -> u32 {
    let dir = mesh.dir().display().to_string();
    let found = processes()
        .find(|(_, command)| command.contains(&"sandbox-supervisor".to_owned()) && command.contains(&dir));
    found.expect("a demo runs").0
}

/// Every process and its command line.
fn processes() -> impl Iterator<Item = (u32, Vec<String>)> {
    let all = std::fs::read_dir("/proc").expect("/proc").flatten();
    all.filter_map(|entry| {
        let id = entry.file_name().to_str()?.parse().ok()?;
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        let words = line.split(|b| *b == 0);
        Some((
            id,
            words.map(|w| String::from_utf8_lossy(w).into_owned()).collect(),
        ))
    })
}

/// Source and destination.
type Flow = ((Ipv4Addr, u16), (Ipv4Addr, u16));

/// One direction of a TCP connection.
#[derive(Debug, Default)]
struct Stream {
    /// Sequence number of the first byte, when its beginning was seen.
    begin: Option<u32>,
    /// Payloads by sequence number.
    segments: BTreeMap<u32, Vec<u8>>,
}

impl Stream {
    /// The bytes from the beginning, as far as they were seen without a gap.
    fn bytes(&self) -> Option<Vec<u8>> {
        let mut next = self.begin?;
        let mut out = Vec::new();
        while let Some(segment) = self.segments.get(&next) {
            out.extend_from_slice(segment);
            next = next.wrapping_add(u32::try_from(segment.len()).ok()?);
        }
        Some(out)
    }
}

/// Reads a capture (the libpcap format) of Ethernet or of Linux's `any` device.
fn streams(pcap: &[u8]) -> BTreeMap<Flow, Stream> {
    let word = |at: usize| {
        pcap.get(at..at + 4)
            .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    };
    assert_eq!(
        word(0),
        Some(0xa1b2_c3d4),
        "not a capture in this machine's byte order"
    );
    let link_header = match word(20) {
        Some(1) => 14,
        Some(113) => 16,
        Some(276) => 20,
        other => panic!("link type {other:?}"),
    };
    let mut out: BTreeMap<Flow, Stream> = BTreeMap::new();
    let mut at = 24;
    while let Some(length) = word(at + 8) {
        let packet = pcap.get(at + 16 + link_header..at + 16 + length as usize);
        at += 16 + length as usize;
        let Some(ip) = packet.filter(|p| p.len() >= 40 && p[0] >> 4 == 4 && p[9] == 6) else {
            continue;
        };
        let tcp = usize::from(ip[0] & 15) * 4;
        let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
        let Some(segment) = ip.get(tcp..total.min(ip.len())).filter(|s| s.len() >= 20) else {
            continue;
        };
        let address = |at: usize| Ipv4Addr::new(ip[at], ip[at + 1], ip[at + 2], ip[at + 3]);
        let port = |at: usize| u16::from_be_bytes([segment[at], segment[at + 1]]);
        let sequence = u32::from_be_bytes([segment[4], segment[5], segment[6], segment[7]]);
        let payload = &segment[usize::from(segment[12] >> 4) * 4..];
        let stream = out
            .entry(((address(12), port(0)), (address(16), port(2))))
            .or_default();
        if segment[13] & 2 != 0 {
            stream.begin = Some(sequence.wrapping_add(1));
        }
        if !payload.is_empty() {
            // The longest of what was sent with this number: a repetition may carry more.
            let kept = stream.segments.entry(sequence).or_default();
            if kept.len() < payload.len() {
                *kept = payload.to_vec();
            }
        }
    }
    out
}

/// The records of a TLS stream: content type and content.
fn records(mut bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let mut out = Vec::new();
    while let [content, 3, minor, high, low, rest @ ..] = bytes {
        assert!(
            (20..=23).contains(content) && (1..=4).contains(minor),
            "no TLS record: {bytes:02x?}"
        );
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        assert!(length <= 16_384 + 256, "no TLS record has {length} bytes");
        if rest.len() < length {
            return out;
        }
        out.push((*content, &rest[..length]));
        bytes = &rest[length..];
    }
    assert!(bytes.len() < 5, "no TLS record: {bytes:02x?}");
    out
}

/// The version that a ServerHello settles on: `supported_versions`, else its old field (RFC 8446 4.2.1).
fn version(hello: &[u8]) -> Option<u16> {
    let number = |at: usize| Some(u16::from_be_bytes([*hello.get(at)?, *hello.get(at + 1)?]));
    if hello.first() != Some(&2) {
        return None;
    }
    let session = usize::from(*hello.get(38)?);
    let mut at = 39 + session + 3;
    let end = at + 2 + usize::from(number(at)?);
    at += 2;
    while at < end {
        if number(at)? == 43 {
            return number(at + 4);
        }
        at += 4 + usize::from(number(at + 2)?);
    }
    number(4)
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|w| w == needle)
}

#[test]
fn between_the_clusters_there_is_tls_1_3_and_nothing_to_read() {
    let mesh = Mesh::exclusive();
    let dir = tempfile::tempdir().expect("a directory");
    let capture = Capture::of_the_internet(&mesh, dir.path());
    let header = format!("x-secret: {SECRET}");
    let said = eventually("echo in eu has the secret", || {
        let argv = [
            "curl",
            "-sS",
            "--max-time",
            "20",
            "-H",
            &header,
            "http://echo.eu.mesh.local",
        ];
        let said = mesh.exec(FRESH, &argv);
        let right = said.stdout.starts_with("echo from cluster eu") && said.stdout.contains(SECRET);
        if right { Ok(said) } else { Err(said.to_string()) }
    });
    // The answer repeats the request, so that the secret went both ways.
    assert!(said.stdout.contains(&header), "{said}");

    let wanted = ECHO.as_bytes();
    let (hello_flow, _) = eventually("a handshake for echo on the wire, and data behind it", || {
        let streams = capture.streams();
        let flow = streams.iter().find_map(|(flow, stream)| {
            let bytes = stream.bytes()?;
            let records = records(&bytes);
            let answered = streams.get(&(flow.1, flow.0))?.bytes()?;
            let data = records.iter().filter(|r| r.0 == 23).count();
            (flow.1.1 == 15443 && contains(records.first()?.1, wanted) && data > 0 && answered.len() > 500)
                .then_some(*flow)
        });
        flow.map(|f| (f, ()))
            .ok_or_else(|| format!("{} flows", streams.len()))
    });

    let streams = capture.streams();
    let mut handshakes = 0;
    for (flow, stream) in &streams {
        // Whatever the port: neither what curl sent nor what it was answered.
        for segment in stream.segments.values() {
            for readable in [SECRET, "x-secret", "GET / HTTP", "echo from cluster"] {
                assert!(
                    !contains(segment, readable.as_bytes()),
                    "{readable:?} in {flow:?}"
                );
            }
        }
        let (((_, from), (_, to)), Some(bytes)) = (flow, stream.bytes()) else {
            continue;
        };
        if ![*from, *to].contains(&15443) || bytes.is_empty() {
            continue;
        }
        let records = records(&bytes);
        let hellos = records.iter().filter(|r| r.0 == 22).count();
        if *from == 15443 {
            let hello = records.first().expect("a server answers with a record");
            assert_eq!(
                hello.0, 22,
                "{flow:?}: an alert in place of a ServerHello: {hello:02x?}"
            );
            assert_eq!(version(hello.1), Some(0x0304), "{flow:?} is not TLS 1.3");
            // Certificates and all that follows are sealed.
            assert_eq!(hellos, 1, "{flow:?}");
            handshakes += 1;
        } else {
            // A second ClientHello follows a HelloRetryRequest.
            assert!((1..=2).contains(&hellos), "{flow:?}: {hellos} ClientHellos");
        }
    }
    assert!(handshakes > 0, "no handshake was seen");
    assert!(streams.contains_key(&(hello_flow.1, hello_flow.0)));

    // Where the secret is readable, such a capture finds it: between echo's sidecar and echo.
    let inside = dir.path().join("inside.pcap");
    let argv = [
        "timeout",
        "5",
        "tcpdump",
        "--immediate-mode",
        "-Z",
        "root",
        "-n",
        "-U",
        "-s",
        "0",
        "-i",
        "lo",
        "-w",
    ];
    let file = inside.display().to_string();
    std::thread::scope(|scope| {
        let tcpdump = scope.spawn(|| mesh.exec("eu/echo-v1.echo", &[&argv[..], &[&file, "tcp"]].concat()));
        while !tcpdump.is_finished() {
            mesh.exec(
                FRESH,
                &[
                    "curl",
                    "-sS",
                    "--max-time",
                    "5",
                    "-H",
                    &header,
                    "http://echo.eu.mesh.local",
                ],
            );
        }
    });
    let pcap = std::fs::read(&inside).expect("tcpdump wrote it");
    assert!(contains(&pcap, SECRET.as_bytes()), "the capture is blind");
}

/// A P-256 key in PKCS #8 up to its secret number, and between that and the public point.
const BEFORE_SECRET: [u8; 36] = [
    0x30, 0x81, 0x87, 0x02, 0x01, 0x00, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01,
    0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x04, 0x6d, 0x30, 0x6b, 0x02, 0x01, 0x01,
    0x04, 0x20,
];
const BEFORE_PUBLIC: [u8; 5] = [0xa1, 0x44, 0x03, 0x42, 0x00];

/// All that a process has in memory and lets be read, piece by piece.
fn memory(process: u32, mut each: impl FnMut(&[u8])) {
    let maps = std::fs::read_to_string(format!("/proc/{process}/maps")).unwrap_or_default();
    let mut file = std::fs::File::open(format!("/proc/{process}/mem"))
        .unwrap_or_else(|e| panic!("memory of process {process}: {e}"));
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let range = words.next().and_then(|r| r.split_once('-'));
        let readable = words.next().is_some_and(|p| p.starts_with('r'));
        let bound = |text: &str| u64::from_str_radix(text, 16).ok();
        let Some((from, to)) = range.and_then(|(from, to)| Some((bound(from)?, bound(to)?))) else {
            continue;
        };
        // Files hold what the binary brings; secrets are in anonymous memory. The kernel's own pages at the
        // end cannot be read.
        if !readable || line.contains("[v") || line.contains('/') {
            continue;
        }
        let mut piece = Vec::new();
        if file.seek(SeekFrom::Start(from)).is_ok() {
            // A page that vanished meanwhile ends the piece.
            let _ = (&mut file).take(to - from).read_to_end(&mut piece);
            each(&piece);
        }
    }
}

fn positions<'a>(haystack: &'a [u8], needle: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    let found = haystack.windows(needle.len()).enumerate();
    found.filter(move |(_, w)| *w == needle).map(|(at, _)| at)
}

/// How often a number stands in a process's memory, as certificates and as processors write it.
fn occurrences(process: u32, number: &[u8]) -> usize {
    let backwards: Vec<u8> = number.iter().rev().copied().collect();
    let words: Vec<u8> = number.chunks(8).flat_map(|w| w.iter().rev()).copied().collect();
    let mut count = 0;
    memory(process, |piece| {
        for form in [number, &backwards, &words] {
            count += positions(piece, form).count();
        }
    });
    count
}

/// The proxies of the demo by cluster and pod.
fn proxies(mesh: &Mesh) -> BTreeMap<String, u32> {
    let first = supervisor(mesh);
    let parent = |process: u32| -> Option<u32> {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
    };
    let ours = |process: u32| std::iter::successors(Some(process), |p| parent(*p)).any(|p| p == first);
    processes()
        .filter(|(id, command)| command.iter().any(|w| w == "proxy") && ours(*id))
        .filter_map(|(id, _)| {
            let environment = std::fs::read(format!("/proc/{id}/environ")).ok()?;
            let environment = String::from_utf8_lossy(&environment).into_owned();
            let value = |name: &str| {
                let mut all = environment.split('\0').filter_map(|v| v.split_once('='));
                Some(all.find(|(n, _)| *n == name)?.1.to_owned())
            };
            Some((
                format!("{}/{}", value("ISTIO_META_CLUSTER_ID")?, value("POD_NAME")?),
                id,
            ))
        })
        .collect()
}

#[test]
fn no_gateway_holds_the_key_of_a_workload() {
    let mesh = Mesh::shared();
    // Through the gateways first: had they the key, they would have it by now.
    let said = eventually("echo's certificate through eu's gateway", || {
        let said = handshake(&mesh, &["-servername", ECHO, "-alpn", "istio"]);
        let has = said.stdout.contains("-----BEGIN CERTIFICATE-----");
        if has { Ok(said) } else { Err(said.to_string()) }
    });
    let root = Path::new("/");
    let certificate = run_with(root, &["openssl", "x509", "-noout", "-pubkey"], &said.stdout).stdout;
    let public: Vec<u8> = {
        let text = run_with(
            root,
            &["openssl", "ec", "-pubin", "-noout", "-text"],
            &certificate,
        )
        .stdout;
        let digits = text.split_once("pub:").expect("a public key").1;
        let digits = digits.split("ASN1").next().unwrap_or_default();
        let hex = digits
            .split(|c: char| !c.is_ascii_hexdigit())
            .filter(|d| !d.is_empty());
        hex.map(|d| u8::from_str_radix(d, 16).expect("hexadecimal"))
            .collect()
    };
    assert_eq!(public.len(), 65, "{certificate}");

    let proxies = proxies(&mesh);
    let of = |part: &str| {
        proxies
            .iter()
            .filter(|(name, _)| name.contains(part))
            .collect::<Vec<_>>()
    };
    let (_, echo) = of("eu/echo-")[0];
    let mut secrets: BTreeSet<Vec<u8>> = BTreeSet::new();
    memory(*echo, |piece| {
        for at in positions(piece, &BEFORE_SECRET) {
            let rest = &piece[at + BEFORE_SECRET.len()..];
            if let Some((secret, rest)) = rest.split_at_checked(32)
                && rest
                    .strip_prefix(&BEFORE_PUBLIC)
                    .is_some_and(|r| r.starts_with(&public))
            {
                secrets.insert(secret.to_vec());
            }
        }
    });
    // The search works: where the key was born it is found.
    assert_eq!(secrets.len(), 1, "echo's own key in its sidecar");
    let secret = secrets.first().expect("one");
    assert!(occurrences(*echo, secret) > 0);

    let gateways = of("gateway");
    assert_eq!(gateways.len(), 6, "{proxies:?}");
    for (name, process) in gateways {
        assert_eq!(
            occurrences(*process, secret),
            0,
            "{name} has echo's key in its memory"
        );
    }

    // And what they say of themselves: their own identity, no key.
    for gateway in ["us/istio-eastwestgateway", "eu/istio-eastwestgateway"] {
        let ask = |page: &str| {
            let url = format!("http://127.0.0.1:15000/{page}");
            let said = mesh.exec(&format!("{gateway}.istio-system"), &["curl", "-sS", &url]);
            assert_eq!(said.code, 0, "{said}");
            said.stdout
        };
        let dump = ask("config_dump");
        assert!(!dump.contains("PRIVATE KEY"), "{gateway} shows a key");
        let certificates: Value = serde_json::from_str(&ask("certs")).expect("JSON");
        let text = certificates.to_string();
        let uris: BTreeSet<&str> = text
            .split("spiffe://")
            .skip(1)
            .filter_map(|u| u.split('"').next())
            .collect();
        assert_eq!(uris.len(), 1, "{uris:?}");
        assert!(
            uris.first()
                .is_some_and(|u| u.starts_with("corp.local/ns/istio-system/sa/istio-eastwestgateway")),
            "{uris:?}"
        );
    }
}
