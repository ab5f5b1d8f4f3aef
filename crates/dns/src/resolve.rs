//! A stub resolver for the proxy itself: the names of STRICT_DNS and LOGICAL_DNS clusters, of gateways
//! known by host name, and of whatever it dials. No search domains, no table of the mesh: the name is
//! what the configuration says it is. Looking again when the answer's time is over is the caller's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};

use crate::forward::{ForwardError, Forwarder};
use crate::wire;

/// CNAMEs that are followed at most.
const MOST_ALIASES: usize = 8;
/// Addresses that are taken of one answer at most.
const MOST_ADDRESSES: usize = 1024;
/// How long a denial without an SOA is believed.
const DENIAL: Duration = Duration::from_secs(5);

/// Which families to ask for (Envoy `Cluster.DnsLookupFamily`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv6, and IPv4 when there is none.
    #[default]
    Auto,
    /// IPv4 alone.
    V4Only,
    /// IPv6 alone.
    V6Only,
    /// IPv4, and IPv6 when there is none.
    V4Preferred,
    /// Both.
    All,
}

/// The addresses of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// At least one, in the order of the answers, each once.
    pub addresses: Vec<IpAddr>,
    /// How long they hold: the least TTL on the way; `Duration::MAX` for a literal address.
    pub ttl: Duration,
}

/// Why a name has no address.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// Not a DNS name.
    #[error("{0:?} is not a DNS name")]
    Name(String),
    /// The resolvers say that it does not exist, or has no address of the family; believe it for `ttl`.
    #[error("{name} {}", if *.exists { "has no address of the family asked for" } else { "does not exist" })]
    NoAddress {
        /// What was asked.
        name: String,
        /// Whether the name exists.
        exists: bool,
        /// How long the denial holds.
        ttl: Duration,
    },
    /// The resolvers answered with an error, or with nonsense.
    #[error("{name}: the resolver answered {code}")]
    Refused {
        /// What was asked.
        name: String,
        /// The response code, in words.
        code: String,
    },
    /// No resolver answered.
    #[error("{name}: {source}")]
    Unreachable {
        /// What was asked.
        name: String,
        /// Why.
        #[source]
        source: ForwardError,
    },
}

/// Resolves names by a [`Forwarder`]'s upstreams, with its socket mark and timeouts. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Resolver(Forwarder);

struct Lookup {
    addresses: Vec<IpAddr>,
    ttl: Duration,
}

impl Resolver {
    /// A resolver that asks as `forwarder` does.
    pub fn new(forwarder: Forwarder) -> Self {
        Self(forwarder)
    }

    /// The addresses of `host`, a name or a literal address.
    pub async fn resolve(&self, host: &str, family: Family) -> Result<Resolved, ResolveError> {
        if let Ok(ip) = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse::<IpAddr>()
        {
            return Ok(Resolved {
                addresses: vec![ip],
                ttl: Duration::MAX,
            });
        }
        let plain = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        if plain == "localhost" || plain.ends_with(".localhost") {
            return Ok(loopback(family));
        }
        let name = Name::from_ascii(format!("{plain}."))
            .ok()
            .filter(|n| !plain.is_empty() && !n.is_wildcard())
            .ok_or_else(|| ResolveError::Name(host.to_owned()))?;
        let v4 = || self.lookup(name.clone(), RecordType::A);
        let v6 = || self.lookup(name.clone(), RecordType::AAAA);
        let found = match family {
            Family::V4Only => v4().await,
            Family::V6Only => v6().await,
            Family::Auto | Family::V4Preferred | Family::All => {
                // Both are asked at once: the second choice must not cost a second round.
                let (v4, v6) = futures_util::future::join(v4(), v6()).await;
                match family {
                    Family::V4Preferred => v4.or_else(|e| v6.map_err(|_| e)),
                    Family::Auto => v6.or_else(|e| v4.map_err(|_| e)),
                    _ => match (v4, v6) {
                        (Ok(v4), Ok(v6)) => Ok(Lookup {
                            addresses: [v4.addresses, v6.addresses].concat(),
                            ttl: v4.ttl.min(v6.ttl),
                        }),
                        (Ok(one), Err(_)) | (Err(_), Ok(one)) => Ok(one),
                        (Err(error), Err(_)) => Err(error),
                    },
                }
            }
        }?;
        Ok(Resolved {
            addresses: found.addresses,
            ttl: found.ttl,
        })
    }

    async fn lookup(&self, asked: Name, kind: RecordType) -> Result<Lookup, ResolveError> {
        let text = wire::plain(&asked);
        let (mut name, mut ttl) = (asked, u32::MAX);
        for _ in 0..MOST_ALIASES {
            let message = self.ask(&name, kind, &text).await?;
            let exists = match message.metadata.response_code {
                ResponseCode::NoError => true,
                ResponseCode::NXDomain => false,
                code => {
                    return Err(ResolveError::Refused {
                        name: text,
                        code: code.to_string(),
                    });
                }
            };
            // Aliases may stand in any order; each is followed once.
            for _ in 0..MOST_ALIASES {
                let alias = message
                    .answers
                    .iter()
                    .filter(|r| r.name == name)
                    .find_map(|r| match &r.data {
                        RData::CNAME(to) => Some((to.0.clone(), r.ttl)),
                        _ => None,
                    });
                let Some((to, alias_ttl)) = alias else { break };
                (name, ttl) = (to, ttl.min(alias_ttl));
            }
            let mut addresses = Vec::new();
            for record in message.answers.iter().filter(|r| r.name == name) {
                let ip = match &record.data {
                    RData::A(ip) if kind == RecordType::A => IpAddr::V4(ip.0),
                    RData::AAAA(ip) if kind == RecordType::AAAA => IpAddr::V6(ip.0),
                    _ => continue,
                };
                ttl = ttl.min(record.ttl);
                if !addresses.contains(&ip) && addresses.len() < MOST_ADDRESSES {
                    addresses.push(ip);
                }
            }
            if !addresses.is_empty() {
                return Ok(Lookup {
                    addresses,
                    ttl: Duration::from_secs(ttl.into()),
                });
            }
            let followed = message.queries.first().is_some_and(|q| q.name() != &name);
            if !followed
                || !exists
                || message
                    .authorities
                    .iter()
                    .any(|r| matches!(r.data, RData::SOA(_)))
            {
                return Err(ResolveError::NoAddress {
                    name: text,
                    exists,
                    ttl: denial(&message),
                });
            }
        }
        Err(ResolveError::Refused {
            name: text,
            code: "more aliases than anyone follows".to_owned(),
        })
    }

    async fn ask(&self, name: &Name, kind: RecordType, text: &str) -> Result<Message, ResolveError> {
        let mut query = Message::new(0, MessageType::Query, OpCode::Query);
        query.metadata.recursion_desired = true;
        query.queries.push(Query::query(name.clone(), kind));
        let mut edns = Edns::new();
        edns.set_max_payload(1232);
        query.edns = Some(edns);
        let unreachable = |source| ResolveError::Unreachable {
            name: text.to_owned(),
            source,
        };
        let bytes = query.to_vec().map_err(|_| ResolveError::Name(text.to_owned()))?;
        let answer = self.0.whole(&bytes).await.map_err(unreachable)?;
        Message::from_vec(&answer).map_err(|error| ResolveError::Refused {
            name: text.to_owned(),
            code: format!("what cannot be read: {error}"),
        })
    }
}

fn denial(message: &Message) -> Duration {
    let soa = message.authorities.iter().find_map(|r| match &r.data {
        RData::SOA(soa) => Some(Duration::from_secs(soa.minimum.min(r.ttl).into())),
        _ => None,
    });
    soa.unwrap_or(DENIAL)
}

/// `localhost` never leaves the machine (RFC 6761 section 6.3).
fn loopback(family: Family) -> Resolved {
    let (v4, v6) = (IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST));
    let addresses = match family {
        // Programs listen on 127.0.0.1 far more often than on ::1, so `Auto` means it here.
        Family::V4Only | Family::V4Preferred | Family::Auto => vec![v4],
        Family::V6Only => vec![v6],
        Family::All => vec![v4, v6],
    };
    Resolved {
        addresses,
        ttl: Duration::MAX,
    }
}

#[cfg(test)]
mod tests;
