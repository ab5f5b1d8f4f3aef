//! `fetch`: a client that behaves like an ordinary application and counts what it gets.
//!
//! Plain HTTP/1.1 over the system's resolver and sockets, so that what it sees is what an unmodified
//! program in the pod sees. One request prints the answer; many print a JSON summary.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

/// Longest answer that is read.
const BODY_LIMIT: usize = 64 << 20;
/// Failures that the summary describes one by one.
const FAILURES_SHOWN: usize = 20;

/// What is fetched, and how often.
#[derive(Debug, Clone)]
pub struct Plan {
    /// `http://HOST[:PORT]/PATH`
    pub url: String,
    /// Method.
    pub method: String,
    /// `Name: value` each.
    pub headers: Vec<(String, String)>,
    /// Request body.
    pub body: String,
    /// Requests in all; `None`: until `duration` is over.
    pub count: Option<u64>,
    /// Time in all.
    pub duration: Option<Duration>,
    /// Requests at a time.
    pub concurrency: usize,
    /// Time between the requests of one connection.
    pub pause: Duration,
    /// A new connection for every request.
    pub close: bool,
    /// Time for one request.
    pub timeout: Duration,
    /// Count answers by this field of their JSON body.
    pub tally: Option<String>,
}

impl Default for Plan {
    /// One GET of nothing yet, within 30 seconds.
    fn default() -> Self {
        Self {
            url: String::new(),
            method: "GET".to_owned(),
            headers: Vec::new(),
            body: String::new(),
            count: None,
            duration: None,
            concurrency: 1,
            pause: Duration::ZERO,
            close: false,
            timeout: Duration::from_secs(30),
            tally: None,
        }
    }
}

/// What came of many requests.
#[derive(Debug, Default, Serialize)]
pub struct Summary {
    /// Requests sent.
    pub requests: u64,
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Requests without an answer.
    pub errors: u64,
    /// Answers by the field that was asked for.
    pub tally: BTreeMap<String, u64>,
    /// The first requests that failed or had no status below 400: milliseconds from the start, and why.
    pub failures: Vec<Failure>,
    /// Longest time between two successful answers, milliseconds.
    pub longest_gap_ms: u64,
    /// Median, 99th percentile and maximum of the time for one request, milliseconds.
    pub latency_ms: [f64; 3],
    /// Time in all, milliseconds.
    pub elapsed_ms: u64,
}

/// A request that failed.
#[derive(Debug, Clone, Serialize)]
pub struct Failure {
    /// Milliseconds from the start at which it was sent.
    pub sent_ms: u64,
    /// Milliseconds that it took.
    pub took_ms: u64,
    /// The error, or the status with the start of the body.
    pub why: String,
}

/// One answer.
#[derive(Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Header fields in order.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: Vec<u8>,
}

/// The URL is not one that can be fetched.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} cannot be fetched; write http://HOST[:PORT]/PATH")]
pub struct UrlError(String);

/// Fetches once.
///
/// # Errors
/// The URL is wrong, or there was no answer.
pub fn once(plan: &Plan) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
    let target = Target::parse(&plan.url)?;
    Ok(Connection::open(&target, plan.timeout)?.exchange(&target, plan)?)
}

/// Fetches until the count or the time is reached.
///
/// # Errors
/// The URL is wrong. Requests that fail are counted.
pub fn many(plan: &Plan) -> Result<Summary, UrlError> {
    let target = Arc::new(Target::parse(&plan.url)?);
    let plan = Arc::new(plan.clone());
    let (began, sent) = (Instant::now(), Arc::new(AtomicU64::new(0)));
    let record = Arc::new(Mutex::new(Record::default()));
    let workers: Vec<_> = (0..plan.concurrency.max(1))
        .map(|_| {
            let (target, plan, sent, record) = (target.clone(), plan.clone(), sent.clone(), record.clone());
            std::thread::spawn(move || work(&target, &plan, began, &sent, &record))
        })
        .collect();
    for worker in workers {
        let _ = worker.join();
    }
    let record = std::mem::take(&mut *record.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(record.summary(began.elapsed()))
}

fn work(target: &Target, plan: &Plan, began: Instant, sent: &AtomicU64, record: &Mutex<Record>) {
    let mut connection = None;
    loop {
        let number = sent.fetch_add(1, Ordering::Relaxed);
        let enough = plan.count.is_some_and(|count| number >= count)
            || plan.duration.is_some_and(|duration| began.elapsed() >= duration)
            || (plan.count.is_none() && plan.duration.is_none());
        if enough {
            return;
        }
        let start = Instant::now();
        let result = match connection.take() {
            Some(open) => Ok(open),
            None => Connection::open(target, plan.timeout),
        }
        .and_then(|mut open: Connection| {
            let answer = open.exchange(target, plan)?;
            if !plan.close && open.reusable {
                connection = Some(open);
            }
            Ok(answer)
        });
        let mut record = record.lock().unwrap_or_else(PoisonError::into_inner);
        record.note(plan, start.duration_since(began), start.elapsed(), result);
        drop(record);
        if !plan.pause.is_zero() {
            std::thread::sleep(plan.pause);
        }
    }
}

#[derive(Debug, Default)]
struct Record {
    summary: Summary,
    latencies: Vec<Duration>,
    last_success: Duration,
}

impl Record {
    fn note(&mut self, plan: &Plan, sent: Duration, took: Duration, result: io::Result<Answer>) {
        self.summary.requests += 1;
        self.latencies.push(took);
        let why = match result {
            Ok(answer) => {
                *self.summary.statuses.entry(answer.status).or_default() += 1;
                if let Some(field) = &plan.tally {
                    *self
                        .summary
                        .tally
                        .entry(tallied(&answer.body, field))
                        .or_default() += 1;
                }
                if answer.status < 400 {
                    let gap = (sent + took).saturating_sub(self.last_success);
                    self.summary.longest_gap_ms = self.summary.longest_gap_ms.max(millis(gap));
                    self.last_success = self.last_success.max(sent + took);
                    return;
                }
                let body = String::from_utf8_lossy(&answer.body);
                format!(
                    "{}: {}",
                    answer.status,
                    body.chars().take(200).collect::<String>()
                )
            }
            Err(error) => {
                self.summary.errors += 1;
                error.to_string()
            }
        };
        if self.summary.failures.len() < FAILURES_SHOWN {
            self.summary.failures.push(Failure {
                sent_ms: millis(sent),
                took_ms: millis(took),
                why,
            });
        }
    }

    fn summary(mut self, elapsed: Duration) -> Summary {
        self.latencies.sort();
        let at = |share: usize| {
            let index = (self.latencies.len() * share / 100).min(self.latencies.len().saturating_sub(1));
            self.latencies
                .get(index)
                .map_or(0.0, |d| d.as_secs_f64() * 1000.0)
        };
        self.summary.latency_ms = [at(50), at(99), at(100)];
        self.summary.elapsed_ms = millis(elapsed);
        self.summary
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn tallied(body: &[u8], field: &str) -> String {
    let json: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    match json.pointer(&format!("/{}", field.replace('.', "/"))) {
        Some(serde_json::Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => "(none)".to_owned(),
    }
}

#[derive(Debug)]
struct Target {
    authority: String,
    address: String,
    path: String,
}

impl Target {
    fn parse(url: &str) -> Result<Self, UrlError> {
        let bad = || UrlError(url.to_owned());
        let rest = url.strip_prefix("http://").ok_or_else(bad)?;
        let (authority, path) = match rest.find('/') {
            Some(slash) => (&rest[..slash], rest[slash..].to_owned()),
            None => (rest, "/".to_owned()),
        };
        if authority.is_empty() || url.contains(char::is_whitespace) {
            return Err(bad());
        }
        let address = match authority.rsplit_once(':') {
            Some((_, port)) if port.parse::<u16>().is_ok() => authority.to_owned(),
            Some(_) => return Err(bad()),
            None => format!("{authority}:80"),
        };
        Ok(Self {
            authority: authority.to_owned(),
            address,
            path,
        })
    }
}

#[derive(Debug)]
struct Connection {
    stream: BufReader<TcpStream>,
    reusable: bool,
}

impl Connection {
    fn open(target: &Target, timeout: Duration) -> io::Result<Self> {
        let address = target
            .address
            .to_socket_addrs()?
            .next()
            .ok_or(io::ErrorKind::NotFound)?;
        let stream = TcpStream::connect_timeout(&address, timeout)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream: BufReader::new(stream),
            reusable: true,
        })
    }

    fn exchange(&mut self, target: &Target, plan: &Plan) -> io::Result<Answer> {
        let mut request = format!("{} {} HTTP/1.1\r\n", plan.method, target.path);
        if !plan
            .headers
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case("host"))
        {
            request.push_str(&format!("host: {}\r\n", target.authority));
        }
        request.push_str("user-agent: isthmus-fetch\r\n");
        for (name, value) in &plan.headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        if !plan.body.is_empty() || plan.method != "GET" {
            request.push_str(&format!("content-length: {}\r\n", plan.body.len()));
        }
        request.push_str("\r\n");
        request.push_str(&plan.body);
        self.stream.get_mut().write_all(request.as_bytes())?;
        self.answer(plan.method == "HEAD")
    }

    fn answer(&mut self, head_only: bool) -> io::Result<Answer> {
        let malformed = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("not HTTP: {what}"));
        let start = self.line()?;
        if start.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the connection was closed without an answer",
            ));
        }
        let status: u16 = start
            .split(' ')
            .nth(1)
            .and_then(|s| s.parse().ok())
            .ok_or_else(|| malformed(&start))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or_else(|| malformed(&line))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        if (100..200).contains(&status) && status != 101 {
            return self.answer(head_only);
        }
        let header = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
        let closes = header("connection").is_some_and(|c| c.eq_ignore_ascii_case("close"));
        let mut body = Vec::new();
        if head_only || status == 204 || status == 304 {
        } else if header("transfer-encoding").is_some_and(|t| t.eq_ignore_ascii_case("chunked")) {
            self.chunks(&mut body)?;
        } else if let Some(length) = header("content-length") {
            let length: usize = length.parse().map_err(|_| malformed("content-length"))?;
            if length > BODY_LIMIT {
                return Err(malformed("the body is too long"));
            }
            body.resize(length, 0);
            self.stream.read_exact(&mut body)?;
        } else {
            self.reusable = false;
            self.stream
                .by_ref()
                .take(BODY_LIMIT as u64)
                .read_to_end(&mut body)?;
        }
        self.reusable &= !closes;
        Ok(Answer {
            status,
            headers,
            body,
        })
    }

    fn chunks(&mut self, body: &mut Vec<u8>) -> io::Result<()> {
        loop {
            let line = self.line()?;
            let size = usize::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16)
                .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not HTTP: a chunk's size"))?;
            if body.len() + size > BODY_LIMIT {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the body is too long"));
            }
            if size == 0 {
                while !self.line()?.is_empty() {}
                return Ok(());
            }
            let start = body.len();
            body.resize(start + size, 0);
            self.stream.read_exact(&mut body[start..])?;
            self.line()?;
        }
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.stream.by_ref().take(64 << 10).read_line(&mut line)?;
        line.truncate(line.trim_end_matches(['\r', '\n']).len());
        Ok(line)
    }
}
