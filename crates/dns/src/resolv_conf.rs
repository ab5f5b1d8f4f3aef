//! `resolv.conf(5)`: the resolvers and search domains a pod was given.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

/// Name servers that are taken at most; the rest of a file is ignored.
const MOST_SERVERS: usize = 8;
/// Search domains that are taken at most, glibc's old limit being 6 and Kubernetes' 32.
const MOST_DOMAINS: usize = 32;

/// What is used of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// Resolvers in order, port 53. Empty when the file names none: then there is no upstream.
    pub servers: Vec<SocketAddr>,
    /// Search domains in order.
    pub search: Vec<String>,
}

impl ResolvConf {
    /// Reads a file.
    pub fn load(path: &Path) -> io::Result<Self> {
        Ok(Self::parse(&String::from_utf8_lossy(&std::fs::read(path)?)))
    }

    /// Parses text. Lines that are not understood are passed over, as every resolver does; the last
    /// `search` or `domain` line wins.
    pub fn parse(text: &str) -> Self {
        let mut conf = Self::default();
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => {
                    // A zone (`fe80::1%eth0`) cannot be said in a plain address and is left out.
                    let server = words.next().and_then(|w| w.parse::<IpAddr>().ok());
                    if let Some(ip) = server
                        && conf.servers.len() < MOST_SERVERS
                    {
                        conf.servers.push(SocketAddr::new(ip, 53));
                    }
                }
                Some("search" | "domain") => {
                    conf.search = words
                        .take(MOST_DOMAINS)
                        .map(|d| d.trim_matches('.').to_owned())
                        .collect();
                    conf.search.retain(|d| !d.is_empty());
                }
                _ => {}
            }
        }
        conf
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_file_is_understood() {
        let conf = ResolvConf::parse(
            "# kubelet\nsearch foo.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.96.0.10\n\
             nameserver fd00::a\nnameserver nonsense\nnameserver\noptions ndots:5\n;x\n",
        );
        assert_eq!(
            conf.servers,
            ["10.96.0.10:53".parse().unwrap(), "[fd00::a]:53".parse().unwrap()]
        );
        assert_eq!(
            conf.search,
            ["foo.svc.cluster.local", "svc.cluster.local", "cluster.local"]
        );
    }

    #[test]
    fn a_hostile_file_is_bounded() {
        let text = "nameserver 1.1.1.1\n".repeat(1000) + "search " + &"a ".repeat(1000) + "\nsearch .";
        let conf = ResolvConf::parse(&text);
        assert_eq!((conf.servers.len(), conf.search.len()), (8, 0));
    }
}
