//! What a port speaks (Istio's protocol selection).

use std::fmt;

use serde::{Deserialize, Serialize};

/// Application protocol of a port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1 (and HTTP/2 when the caller speaks it).
    Http,
    /// HTTP/2 by prior knowledge.
    Http2,
    /// gRPC over HTTP/2.
    Grpc,
    /// TLS whose inside is HTTP; routed by SNI.
    Https,
    /// TLS of any kind; routed by SNI.
    Tls,
    /// Opaque bytes.
    Tcp,
    /// Datagrams; carried past the proxy.
    Udp,
    /// Nothing was said: sniffed.
    #[default]
    Auto,
}

impl Protocol {
    /// From a Kubernetes port's `appProtocol` and name, in this order; `udp` by its transport.
    ///
    /// `http-web` and `http` are HTTP; an unknown prefix is [`Protocol::Auto`].
    pub fn select(name: &str, app_protocol: Option<&str>, transport: Option<&str>) -> Self {
        if transport.is_some_and(|t| t.eq_ignore_ascii_case("udp")) {
            return Self::Udp;
        }
        let known = |s: &str| match s.to_ascii_lowercase().as_str() {
            "http" | "kubernetes.io/ws" => Some(Self::Http),
            "http2" | "kubernetes.io/h2c" => Some(Self::Http2),
            "grpc" | "grpc-web" => Some(Self::Grpc),
            "https" | "kubernetes.io/wss" => Some(Self::Https),
            "tls" => Some(Self::Tls),
            "tcp" | "mongo" | "mysql" | "redis" => Some(Self::Tcp),
            "udp" => Some(Self::Udp),
            _ => None,
        };
        if let Some(p) = app_protocol.and_then(known) {
            return p;
        }
        if name.eq_ignore_ascii_case("grpc-web") {
            return Self::Grpc;
        }
        known(name.split('-').next().unwrap_or_default()).unwrap_or_default()
    }

    /// Whether requests are visible: HTTP, HTTP/2 or gRPC.
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::Grpc)
    }

    /// Whether HTTP/2 is spoken by prior knowledge.
    pub fn is_http2(self) -> bool {
        matches!(self, Self::Http2 | Self::Grpc)
    }

    /// Whether the application itself speaks TLS.
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Tls)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "HTTP",
            Self::Http2 => "HTTP2",
            Self::Grpc => "GRPC",
            Self::Https => "HTTPS",
            Self::Tls => "TLS",
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Auto => "AUTO",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_names_and_app_protocol() {
        assert_eq!(Protocol::select("http-web", None, None), Protocol::Http);
        assert_eq!(Protocol::select("web", None, None), Protocol::Auto);
        assert_eq!(Protocol::select("tcp", Some("grpc"), None), Protocol::Grpc);
        assert_eq!(Protocol::select("dns", None, Some("UDP")), Protocol::Udp);
        assert_eq!(
            Protocol::select("x", Some("kubernetes.io/h2c"), Some("TCP")),
            Protocol::Http2
        );
    }
}
