//! The same static bootstrap for Envoy and for our proxy: the same answers, the same requests at the
//! upstream, the same words in the access log.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use socket2::{Domain, Socket, Type};

use super::{file, installed};
use crate::harness::{SOON, eventually};

/// An upstream that says what reached it. Its path decides what it does.
fn upstream(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("its address");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || converse(name, stream));
        }
    });
    address
}

/// Answers requests of a connection until either side ends it.
fn converse(name: &str, stream: TcpStream) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut writer = stream;
    loop {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            match line.trim_end() {
                "" => break,
                line => lines.push(line.to_owned()),
            }
        }
        let header = |wanted: &str| {
            let found = lines.iter().find_map(|l| {
                let (name, value) = l.split_once(": ")?;
                name.eq_ignore_ascii_case(wanted).then(|| value.to_owned())
            });
            found.unwrap_or_default()
        };
        let mut body = vec![0; header("content-length").parse().unwrap_or(0)];
        reader.read_exact(&mut body).ok()?;
        if header("transfer-encoding") == "chunked" {
            body = chunks(&mut reader)?;
        }
        let path = lines.first()?.split(' ').nth(1)?.to_owned();
        let first = header("x-envoy-attempt-count") == "1";
        let status = match path.split('/').collect::<Vec<_>>().as_slice() {
            ["", "slow" | "tries", ..] => {
                std::thread::sleep(Duration::from_secs(2));
                "200 OK".to_owned()
            }
            ["", "reset", ..] => return None,
            ["", "broken", ..] if first => return None,
            ["", "retried", ..] if first => "503 Service Unavailable".to_owned(),
            ["", "exhausted", ..] => "503 Service Unavailable".to_owned(),
            ["", "status", code, ..] => format!("{code} Said"),
            _ => "200 OK".to_owned(),
        };
        // In order of name, since proxies may add theirs where they like.
        lines[1..].sort();
        let mut said = format!("{name}\n{}\n\n", lines.join("\n"));
        said.push_str(&String::from_utf8_lossy(&body));
        let bodiless = status.starts_with("204") || status.starts_with("304");
        let length = if bodiless {
            String::new()
        } else {
            format!("content-length: {}\r\n", said.len())
        };
        let head = format!("HTTP/1.1 {status}\r\nX-App: {name}\r\nserver: upstream\r\n{length}\r\n");
        writer.write_all(head.as_bytes()).ok()?;
        if !bodiless && !lines.first()?.starts_with("HEAD ") {
            writer.write_all(said.as_bytes()).ok()?;
        }
    }
}

fn chunks(reader: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let mut chunk = vec![0; usize::from_str_radix(line.trim(), 16).ok()? + 2];
        reader.read_exact(&mut chunk).ok()?;
        if chunk.len() == 2 {
            return Some(body);
        }
        body.extend_from_slice(&chunk[..chunk.len() - 2]);
    }
}

/// A proxy that runs from the bootstrap.
struct Proxy {
    child: Child,
    web: SocketAddr,
    log: std::path::PathBuf,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that nobody has; where nothing is meant to listen it stays so.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}

impl Proxy {
    fn start(dir: &Path, name: &str, command: &[&str], upstreams: &[(&str, u16)]) -> Self {
        let (web, admin) = (free_port(), free_port());
        let log = dir.join(format!("{name}.log"));
        let mut text = std::fs::read_to_string(file("envoy/same.yaml")).expect("the bootstrap");
        text = text.replace("LOG", &log.display().to_string());
        for (word, port) in upstreams.iter().chain(&[("WEB", web), ("ADMIN", admin)]) {
            text = text.replace(&format!(" {word}}}"), &format!(" {port}}}"));
        }
        let bootstrap = dir.join(format!("{name}.yaml"));
        std::fs::write(&bootstrap, text).expect("a file");
        let said = std::fs::File::create(dir.join(format!("{name}.err"))).expect("a file");
        let child = Command::new(command[0])
            .args(&command[1..])
            .arg(&bootstrap)
            .stdout(Stdio::null())
            .stderr(said)
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let proxy = Self {
            child,
            web: ([127, 0, 0, 1], web).into(),
            log,
        };
        eventually(&format!("{name} listens"), || {
            TcpStream::connect(proxy.web).map_err(|e| {
                let said = std::fs::read_to_string(dir.join(format!("{name}.err")));
                format!("{e}: {}", said.unwrap_or_default())
            })
        });
        proxy
    }

    /// A connection from 127.0.0.2: Envoy takes 127.0.0.1 for itself and forwards another address.
    fn connect(&self) -> TcpStream {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let from: SocketAddr = ([127, 0, 0, 2], 0).into();
        socket.bind(&from.into()).expect("loopback is 127.0.0.0/8");
        socket.connect(&self.web.into()).expect("the proxy listens");
        socket.into()
    }

    /// The whole answer to raw bytes, made comparable.
    fn ask(&self, request: &str) -> String {
        let mut stream = self.connect();
        stream.set_read_timeout(Some(SOON)).expect("a timeout");
        stream.write_all(request.as_bytes()).expect("the proxy reads");
        let mut answer = Vec::new();
        // A reset after the answer is an end like another.
        if let Err(e) = stream.read_to_end(&mut answer)
            && e.kind() == std::io::ErrorKind::WouldBlock
        {
            panic!("no end of the answer to {request:?}: {answer:?}");
        }
        comparable(&String::from_utf8_lossy(&answer))
    }

    /// Access log by case, once that of the last case is there; what is no HTTP has no case.
    fn logged(&self, last: &str) -> BTreeMap<String, Value> {
        eventually(&format!("{last:?} in {}", self.log.display()), || {
            let text = std::fs::read_to_string(&self.log).map_err(|e| e.to_string())?;
            let lines: BTreeMap<String, Value> = text
                .lines()
                .filter_map(|l| serde_json::from_str::<Value>(l).ok())
                .filter_map(|mut l| {
                    // Flags are a set: in which order they were raised says nothing.
                    let mut flags: Vec<&str> = l["flags"].as_str()?.split(',').collect();
                    flags.sort_unstable();
                    l["flags"] = flags.join(",").into();
                    Some((l["case"].as_str()?.to_owned(), l))
                })
                .collect();
            if lines.contains_key(last) {
                Ok(lines)
            } else {
                Err(text)
            }
        })
    }
}

/// Headers in order of name; times, dates, random ids and the words behind a status replaced, which no
/// program may go by.
fn comparable(answer: &str) -> String {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
    if head.starts_with("HTTP/1.1 100 ") {
        return format!("100, then {}", comparable(body));
    }
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default();
    let mut out = status.splitn(3, ' ').take(2).collect::<Vec<_>>().join(" ");
    let mut headers: Vec<String> = lines
        .map(|line| match line.split_once(": ") {
            Some((name @ ("date" | "x-envoy-upstream-service-time"), _)) => format!("{name}: ..."),
            _ => line.to_owned(),
        })
        .collect();
    headers.sort();
    for line in headers {
        out.push('\n');
        out.push_str(&line);
    }
    let body: Vec<String> = body
        .split('\n')
        .map(|line| match line.split_once(": ") {
            Some(("x-request-id", id)) if id.len() == 36 => "x-request-id: ...".to_owned(),
            // What is left of it after a first attempt.
            Some((name @ "x-envoy-expected-rq-timeout-ms", ms)) => {
                let seconds = ms.parse().map_or(0, |ms: u64| ms.div_ceil(1000));
                format!("{name}: {seconds}000")
            }
            _ => line.to_owned(),
        })
        .collect();
    format!("{out}\n\n{}", body.join("\n"))
}

/// Lines that one alone has.
fn difference(theirs: &str, mine: &str) -> String {
    let only = |of: &str, other: &str, mark: char| {
        let other: Vec<&str> = other.lines().collect();
        let lines = of.lines().filter(|l| !other.contains(l));
        lines.fold(String::new(), |all, line| format!("{all}\n{mark} {line}"))
    };
    only(theirs, mine, '-') + &only(mine, theirs, '+')
}

/// Name, request line, and further headers with the body behind an empty line.
const CASES: &[(&str, &str, &str)] = &[
    ("exact path", "GET /exact", ""),
    ("exact path and no more", "GET /exact/more", ""),
    ("path in any case", "GET /inSENSITIVE/x", ""),
    ("regex", "GET /re/42", ""),
    ("regex to its end", "GET /re/42x", ""),
    ("regex without the query", "GET /re/42?x=y", ""),
    ("separated prefix", "GET /sep/x", ""),
    ("separated prefix without a separator", "GET /separate", ""),
    ("by header", "GET /by", "x-h: yes-please\r\n"),
    (
        "by header that must not be",
        "GET /by",
        "x-h: yes\r\nx-none: here\r\n",
    ),
    ("by method", "PUT /by", "content-length: 4\r\n\r\nbody"),
    ("by query", "GET /by?a=b&q=1", ""),
    ("by query, other value", "GET /by?q=11", ""),
    ("wildcard host", "GET /", "host: x.wild.example.com\r\n"),
    ("unknown host", "GET /app", "host: nobody.example.com\r\n"),
    ("host with a port", "GET /app", "host: a.example.com:8080\r\n"),
    ("no route", "GET /unknown", ""),
    ("prefix rewrite", "GET /old/x?y=z", ""),
    ("regex rewrite", "GET /swap/one/two?three", ""),
    (
        "host from a header",
        "GET /host-header",
        "x-host: other.example.com\r\n",
    ),
    ("redirect", "GET /redirect/x?y=z", ""),
    ("redirect prefix", "GET /moved/x?y=z", ""),
    ("redirect port", "GET /port?y=z", ""),
    ("redirect to TLS", "GET /x?y=z", "host: tls.example.com\r\n"),
    ("direct response", "GET /direct", ""),
    ("direct response to HEAD", "HEAD /direct", ""),
    ("empty direct response", "GET /empty", ""),
    (
        "header operations",
        "GET /ops",
        "x-gone: g\r\nx-set: old\r\nx-add: first\r\nx-absent: here\r\n",
    ),
    ("weights", "GET /weights", ""),
    ("timeout", "GET /slow", ""),
    ("timeout of every try", "GET /tries", ""),
    ("retried", "GET /retried", ""),
    (
        "retried with a body",
        "POST /retried",
        "content-length: 4\r\n\r\nbody",
    ),
    ("retries exhausted", "GET /exhausted", ""),
    ("reset", "GET /reset", ""),
    ("reset and retried", "GET /broken", ""),
    ("nobody healthy", "GET /nobody", ""),
    ("connection refused", "GET /refused", ""),
    ("unknown cluster", "GET /absent", ""),
    ("unknown cluster, 404", "GET /missing", ""),
    ("forbidden", "GET /forbidden", ""),
    ("not forbidden", "POST /forbidden", "content-length: 0\r\n"),
    ("fault", "GET /fault", ""),
    (
        "preflight",
        "OPTIONS /cors",
        "origin: https://o.example.com\r\naccess-control-request-method: POST\r\n",
    ),
    ("allowed origin", "GET /cors", "origin: https://o.example.com\r\n"),
    ("other origin", "GET /cors", "origin: https://p.example.com\r\n"),
    ("no content", "GET /status/204", ""),
    ("not modified", "GET /status/304", ""),
    ("status without a name", "GET /status/599", ""),
    ("HEAD", "HEAD /app", ""),
    ("body", "POST /app", "content-length: 11\r\n\r\nhello world"),
    (
        "chunks",
        "POST /app",
        "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n",
    ),
    (
        "forwarded before",
        "GET /app",
        "x-forwarded-for: 192.0.2.1\r\nx-forwarded-proto: https\r\n",
    ),
    (
        "what outsiders may not say",
        "GET /app",
        "x-envoy-internal: true\r\nx-envoy-max-retries: 9\r\nx-envoy-original-path: /x\r\nx-request-id: mine\r\n",
    ),
    (
        "hop by hop",
        "GET /app",
        "connection: x-hop\r\nx-hop: 1\r\nkeep-alive: 5\r\nte: trailers\r\n",
    ),
    ("path to be normalized", "GET /by/../app/./x", ""),
    ("slashes to be merged", "GET //app//x", ""),
    ("escaped path", "GET /app/%41%2f%2e", ""),
    (
        "upgrade not allowed",
        "GET /app",
        "connection: upgrade\r\nupgrade: websocket\r\n",
    ),
    ("absolute form", "GET http://a.example.com/app?x", ""),
    ("OPTIONS of everything", "OPTIONS *", ""),
    (
        "expected continue",
        "POST /app",
        "expect: 100-continue\r\ncontent-length: 2\r\n\r\nhi",
    ),
];

/// Where our proxy means to differ: the case, what it says instead, and why.
const DEPARTURES: &[(&str, &str, &str)] = &[
    (
        "connection refused",
        "transport failure reason: delayed connect error",
        "the body says why, so that whoever sees it need not find the log first",
    ),
    (
        "allowed origin",
        "vary: Origin",
        "a cache must not give one origin's answer to another (Fetch standard, CORS and HTTP caches)",
    ),
    (
        "unknown cluster",
        "\"cluster\":\"absent\"",
        "the log names the cluster that is missing",
    ),
    (
        "unknown cluster, 404",
        "\"cluster\":\"absent\"",
        "the log names the cluster that is missing",
    ),
    (
        "OPTIONS of everything",
        "route_not_found",
        "`*` is a path that no route matches, not a malformed request",
    ),
];

#[test]
fn envoy_and_our_proxy_answer_alike_from_the_same_bootstrap() {
    let directory = tempfile::tempdir().expect("a directory");
    let upstreams = [
        ("APP", upstream("app").port()),
        ("OTHER", upstream("other").port()),
        ("CLOSED", free_port()),
    ];
    let envoy = installed("envoy").display().to_string();
    let start = |name: &str, command: &[&str]| Proxy::start(directory.path(), name, command, &upstreams);
    let envoy = start(
        "envoy",
        &[
            &envoy,
            "--concurrency",
            "1",
            "--use-dynamic-base-id",
            "--file-flush-interval-msec",
            "100",
            "-c",
        ],
    );
    let ours = start(
        "isthmus",
        &[env!("CARGO_BIN_EXE_isthmus"), "proxy", "--concurrency", "1", "-c"],
    );

    let mut differences: BTreeMap<&str, String> = BTreeMap::new();
    let mut compare = |case: &'static str, theirs: &str, mine: &str| {
        if theirs != mine {
            let all = differences.entry(case).or_default();
            all.push_str(&difference(theirs, mine));
        }
    };
    for (case, line, rest) in CASES {
        let has_host = rest.starts_with("host: ") || rest.contains("\nhost: ");
        let host = if has_host { "" } else { "host: a.example.com\r\n" };
        let end = if rest.contains("\r\n\r\n") { "" } else { "\r\n" };
        let rest = if rest.contains("connection: ") {
            // The connection is the story here; it ends when the proxy is told so.
            rest.replace("connection: ", "connection: close, ")
        } else {
            format!("connection: close\r\n{rest}")
        };
        let request = format!("{line} HTTP/1.1\r\n{host}x-case: {case}\r\n{rest}{end}");
        compare(case, &envoy.ask(&request), &ours.ask(&request));
    }
    let (last, ..) = CASES.last().expect("cases");
    let (theirs, mine) = (envoy.logged(last), ours.logged(last));
    for (case, ..) in CASES {
        let line = |log: &BTreeMap<String, Value>| log.get(*case).map(Value::to_string).unwrap_or_default();
        compare(case, &line(&theirs), &line(&mine));
    }
    for (case, instead, why) in DEPARTURES {
        let meant = differences.remove(case).unwrap_or_default();
        assert!(
            meant.contains(instead),
            "{case} is as Envoy's now ({why}): {meant}"
        );
    }
    let all = differences.iter().fold(String::new(), |all, (case, difference)| {
        format!("{all}=== {case}{difference}\n")
    });
    assert!(all.is_empty(), "- Envoy, + isthmus\n{all}");
}
