//! What the kubelet and Prometheus ask of the application, asked through the agent (15020).
//!
//! ```text
//!   kubelet ── GET /app-health/NAME/readyz ──▶ agent ── as the pod's probe said ──▶ application
//!   Prometheus ── GET /stats/prometheus ─────▶ agent ── own metrics, then those of the application
//! ```
//!
//! Neither bears a certificate of the mesh, so that neither reaches the application where mTLS is strict. What may
//! be asked stands in the environment (`ISTIO_KUBE_APP_PROBERS`, `ISTIO_PROMETHEUS_ANNOTATIONS`), which injection
//! writes; a caller chooses among that and nothing else. Questions come from 127.0.0.6, which capture leaves alone.

mod grpc;
mod http;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use ::http::StatusCode;
use isthmus_runtime::server::{Request, Response, text};
use serde_json::Value;
use tokio::net::{TcpSocket, TcpStream};

/// Seconds for a probe that says none.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Longest time for a probe.
const LONGEST: Duration = Duration::from_secs(60);
/// Time for the application's metrics.
const SCRAPE: Duration = Duration::from_secs(10);
/// Probes of one pod at most.
const MOST_PROBES: usize = 1024;
/// Whence the proxy speaks to its application.
const FROM_V4: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 6);
const FROM_V6: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6);

/// What may be asked of the application.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Application {
    probes: BTreeMap<String, Probe>,
    metrics: Option<Scrape>,
    address: Option<IpAddr>,
}

/// One probe.
#[derive(Debug, Clone, PartialEq)]
struct Probe {
    question: Question,
    timeout: Duration,
}

/// How it is asked.
#[derive(Debug, Clone, PartialEq)]
enum Question {
    /// By an HTTP GET; an answer from 200 to 399 is good.
    Http {
        port: u16,
        path: String,
        tls: bool,
        headers: Vec<(String, String)>,
        /// Whom the pod names instead of itself.
        host: Option<IpAddr>,
    },
    /// By a connect.
    Tcp { port: u16 },
    /// By `grpc.health.v1.Health/Check`.
    Grpc { port: u16, service: String },
}

/// Where the application's metrics are.
#[derive(Debug, Clone, PartialEq)]
struct Scrape {
    port: u16,
    path: String,
}

impl Application {
    /// By the two variables of the environment. The address is the pod's own.
    ///
    /// # Errors
    /// The variable that cannot be read, and why.
    pub fn read(
        probers: Option<&str>,
        metrics: Option<&str>,
        address: Option<IpAddr>,
    ) -> Result<Self, (&'static str, String)> {
        let mut application = Self {
            address,
            ..Self::default()
        };
        if let Some(said) = probers {
            application.probes = probes(said).map_err(|e| ("ISTIO_KUBE_APP_PROBERS", e))?;
        }
        if let Some(said) = metrics {
            application.metrics = scrape(said).map_err(|e| ("ISTIO_PROMETHEUS_ANNOTATIONS", e))?;
        }
        Ok(application)
    }

    /// Asks the probe of a path: the application's own status, or 500 with the reason.
    pub async fn probe(&self, request: &Request) -> Response {
        let path = request.uri().path();
        let Some(probe) = self.probes.get(path) else {
            return text(
                StatusCode::NOT_FOUND,
                format!("no container has the probe {path:?}\n"),
            );
        };
        let asked = tokio::time::timeout(probe.timeout, self.ask(&probe.question, request));
        match asked.await {
            Ok(Ok(status)) => text(status, ""),
            Ok(Err(error)) => {
                tracing::debug!(path, %error, "a probe of the application failed");
                text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n"))
            }
            Err(_) => text(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("the application did not answer within {:?}\n", probe.timeout),
            ),
        }
    }

    /// The application's metrics as it says them; `None` when it has none to be asked for. What fails is said in
    /// a comment of the page, and the proxy's own metrics are shown all the same.
    pub async fn metrics(&self) -> Option<String> {
        let scrape = self.metrics.as_ref()?;
        let page = match tokio::time::timeout(SCRAPE, self.scrape(scrape)).await {
            Ok(Ok(page)) => page,
            Ok(Err(error)) => failed(scrape, &error.to_string()),
            Err(_) => failed(scrape, "no answer in time"),
        };
        Some(page)
    }

    async fn ask(&self, question: &Question, request: &Request) -> io::Result<StatusCode> {
        match question {
            Question::Tcp { port } => {
                self.connect(None, *port).await?;
                Ok(StatusCode::OK)
            }
            Question::Grpc { port, service } => {
                grpc::check(self.connect(None, *port).await?, service).await?;
                Ok(StatusCode::OK)
            }
            Question::Http {
                port,
                path,
                tls,
                headers,
                host,
            } => {
                let stream = self.connect(*host, *port).await?;
                let authority = self.address(*host, *port).to_string();
                let get = http::Get {
                    authority: &authority,
                    path,
                    headers,
                    forwarded: Some(request.headers()),
                };
                let status = if *tls {
                    get.status(http::encrypted(stream).await?).await?
                } else {
                    get.status(stream).await?
                };
                Ok(status)
            }
        }
    }

    async fn scrape(&self, scrape: &Scrape) -> io::Result<String> {
        let stream = match self.connect(None, scrape.port).await {
            // One that shows its metrics to its own pod alone.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                self.connect(Some(Ipv4Addr::LOCALHOST.into()), scrape.port)
                    .await?
            }
            connected => connected?,
        };
        let authority = self.address(None, scrape.port).to_string();
        let accept = [(
            "accept".to_owned(),
            "text/plain;version=0.0.4;q=1,*/*;q=0.1".to_owned(),
        )];
        let get = http::Get {
            authority: &authority,
            path: &scrape.path,
            headers: &accept,
            forwarded: None,
        };
        let page = get.page(stream).await?;
        // One line that is none would cost Prometheus the proxy's metrics as well.
        if let Some(line) = page.lines().find(|line| !is_metrics(line)) {
            let line: String = line.chars().take(80).collect();
            return Err(io::Error::other(format!("{line:?} is no metric")));
        }
        // The end of a page of OpenMetrics is not the end of ours.
        Ok(page
            .lines()
            .filter(|line| *line != "# EOF")
            .flat_map(|line| [line, "\n"])
            .collect())
    }

    fn address(&self, host: Option<IpAddr>, port: u16) -> SocketAddr {
        let own = self.address.unwrap_or(Ipv4Addr::LOCALHOST.into());
        SocketAddr::new(host.unwrap_or(own), port)
    }

    async fn connect(&self, host: Option<IpAddr>, port: u16) -> io::Result<TcpStream> {
        let address = self.address(host, port);
        let (socket, from) = match address {
            SocketAddr::V4(_) => (TcpSocket::new_v4()?, SocketAddr::from((FROM_V4, 0))),
            SocketAddr::V6(_) => (TcpSocket::new_v6()?, SocketAddr::from((FROM_V6, 0))),
        };
        if host.is_none_or(|h| h.is_loopback()) {
            // Where there is no such address (::6 is not always there), the proxy's own will do.
            let _ = socket.bind(from);
        }
        let connected = socket.connect(address).await;
        connected.map_err(|e| io::Error::new(e.kind(), format!("{address}: {e}")))
    }
}

fn failed(scrape: &Scrape, why: &str) -> String {
    tracing::debug!(
        port = scrape.port,
        path = scrape.path,
        why,
        "the application's metrics cannot be had"
    );
    let why: String = why.chars().filter(|c| !c.is_control()).collect();
    format!(
        "# the application's metrics at port {} cannot be had: {why}\n",
        scrape.port
    )
}

/// Whether a line may stand on a page of metrics: nothing, a comment, or `NAME{LABELS} VALUE ...`.
fn is_metrics(line: &str) -> bool {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return true;
    }
    let named = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let rest = line.trim_start_matches(named);
    if rest.len() == line.len() {
        return false;
    }
    let values = match rest.strip_prefix('{') {
        // An exemplar behind the value has labels of its own.
        Some(labels) => match labels.split(" # ").next().unwrap_or_default().rsplit_once('}') {
            Some((_, values)) => values,
            None => return false,
        },
        None => rest,
    };
    values
        .split_whitespace()
        .next()
        .is_some_and(|value| value.parse::<f64>().is_ok())
}

fn probes(said: &str) -> Result<BTreeMap<String, Probe>, String> {
    let said: BTreeMap<String, Value> = serde_json::from_str(said).map_err(|e| e.to_string())?;
    if said.len() > MOST_PROBES {
        return Err(format!("more than {MOST_PROBES} probes"));
    }
    said.into_iter()
        .map(|(path, probe)| match probe_of(&probe) {
            Some(probe) => Ok((path, probe)),
            None => Err(format!(
                "{path}: httpGet, tcpSocket or grpc with a port is expected"
            )),
        })
        .collect()
}

fn probe_of(said: &Value) -> Option<Probe> {
    let port = |of: &Value| u16::try_from(of.get("port")?.as_u64()?).ok();
    let words = |of: &Value, field: &str| {
        of.get(field)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let question = if let Some(get) = said.get("httpGet") {
        let headers = get.get("httpHeaders").and_then(Value::as_array);
        let path = words(get, "path");
        Question::Http {
            port: port(get)?,
            path: if path.starts_with('/') {
                path
            } else {
                format!("/{path}")
            },
            tls: words(get, "scheme").eq_ignore_ascii_case("HTTPS"),
            headers: headers
                .into_iter()
                .flatten()
                .map(|h| (words(h, "name"), words(h, "value")))
                .collect(),
            host: words(get, "host").parse().ok(),
        }
    } else if let Some(tcp) = said.get("tcpSocket") {
        Question::Tcp { port: port(tcp)? }
    } else {
        let grpc = said.get("grpc")?;
        Question::Grpc {
            port: port(grpc)?,
            service: words(grpc, "service"),
        }
    };
    let seconds = said
        .get("timeoutSeconds")
        .and_then(Value::as_u64)
        .filter(|s| *s > 0);
    Some(Probe {
        question,
        timeout: seconds.map_or(TIMEOUT, |s| Duration::from_secs(s).min(LONGEST)),
    })
}

/// Istio's form: all values are texts, and a port that nobody says is 80.
fn scrape(said: &str) -> Result<Option<Scrape>, String> {
    let said: BTreeMap<String, String> = serde_json::from_str(said).map_err(|e| e.to_string())?;
    let field = |name: &str| said.get(name).map(String::as_str).filter(|v| !v.is_empty());
    if field("scrape") != Some("true") {
        return Ok(None);
    }
    let port = field("port").unwrap_or("80");
    let path = field("path").unwrap_or("/metrics");
    if !path.starts_with('/') {
        return Err(format!("path {path:?} does not begin with /"));
    }
    match port.parse() {
        // To ask the agent for what it asks for would have no end.
        Ok(15020) => Ok(None),
        Ok(port) => Ok(Some(Scrape {
            port,
            path: path.to_owned(),
        })),
        Err(_) => Err(format!("{port:?} is no port")),
    }
}
