//! Stub domains: what the cluster's own DNS has to be told so that pods without sidecars resolve the mesh's
//! names. CoreDNS has them in its Corefile, kube-dns in its ConfigMap.
//!
//! ```text
//!   ConfigMap kube-system/coredns   Corefile  ─▶ coredns()  ─▶ Corefile with `global:53 { forward . IP }`
//!   ConfigMap kube-system/kube-dns  stubDomains ─▶ kube_dns() ─▶ {"global": ["IP"], ...}
//! ```
//!
//! Everything that is there stays as it is written, but for the plug-in `proxy`, which CoreDNS dropped in 1.5
//! and whose place `forward` took: with it in the file CoreDNS does not start.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Map, Value, json};

/// Namespace of the cluster's DNS.
pub const NAMESPACE: &str = "kube-system";
/// ConfigMap of CoreDNS.
pub const COREDNS: &str = "coredns";
/// ConfigMap of kube-dns.
pub const KUBE_DNS: &str = "kube-dns";
/// Seconds for which CoreDNS keeps an answer.
const CACHE: u32 = 30;

/// What was made of what is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The new content.
    pub text: String,
    /// What was changed besides the stub domains, a sentence each.
    pub notes: Vec<String>,
}

/// Why nothing can be made of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StubError {
    /// Braces do not match.
    #[error("line {line} of the Corefile: {why}; correct it, then run this again")]
    Corefile {
        /// From 1.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// Not the JSON that kube-dns reads.
    #[error("stubDomains is not a JSON object of lists: {0}; correct it, then run this again")]
    StubDomains(String),
    /// No domain name.
    #[error("{0:?} is no domain")]
    Domain(String),
}

/// A server block of a Corefile: the lines from its header to its closing brace.
struct Block {
    /// Zones with their ports, as written.
    keys: Vec<String>,
    /// First and last line, from 0.
    lines: std::ops::RangeInclusive<usize>,
}

/// A Corefile that sends `domains` to `server`, and is otherwise `corefile`.
///
/// # Errors
/// The Corefile's braces do not match, or a domain is none.
pub fn coredns(corefile: &str, domains: &[String], server: IpAddr) -> Result<Written, StubError> {
    let wanted = checked(domains)?;
    let mut lines: Vec<String> = corefile.lines().map(str::to_owned).collect();
    let mut notes = Vec::new();
    for (number, line) in lines.iter_mut().enumerate() {
        if let Some(new) = without_proxy(line) {
            notes.push(format!(
                "line {}: plug-in proxy is written as forward",
                number + 1
            ));
            *line = new;
        }
    }
    let mut missing = Vec::new();
    for domain in wanted {
        let found = blocks(&lines)?
            .into_iter()
            .find(|b| b.keys.iter().any(|key| zone(key) == domain));
        match found {
            None => missing.push(domain),
            Some(block) => lead(&mut lines, &block, &domain, server, &mut notes),
        }
    }
    while lines.last().is_some_and(|l| l.trim().is_empty()) {
        lines.pop();
    }
    for domain in missing {
        lines.extend([
            format!("{domain}:53 {{"),
            "    errors".to_owned(),
            format!("    cache {CACHE}"),
            format!("    forward . {server}"),
            "}".to_owned(),
        ]);
    }
    let mut text = lines.join("\n");
    text.push('\n');
    if !blocks(&lines)?.iter().any(|block| {
        block
            .lines
            .clone()
            .any(|at| words(&lines[at]).next() == Some("reload"))
    }) {
        notes.push("there is no plug-in reload: restart CoreDNS for the change to count".to_owned());
    }
    Ok(Written { text, notes })
}

/// The stubDomains of kube-dns that send `domains` to `server`, and are otherwise those of `present`.
///
/// # Errors
/// What is present is not JSON of the right form, or a domain is none.
pub fn kube_dns(present: Option<&str>, domains: &[String], server: IpAddr) -> Result<Written, StubError> {
    let mut all: BTreeMap<String, Value> = match present.map(str::trim).filter(|t| !t.is_empty()) {
        None => BTreeMap::new(),
        Some(text) => serde_json::from_str(text).map_err(|e| StubError::StubDomains(e.to_string()))?,
    };
    if let Some((domain, _)) = all.iter().find(|(_, servers)| !servers.is_array()) {
        return Err(StubError::StubDomains(format!("{domain} has no list")));
    }
    let mut notes = Vec::new();
    for domain in checked(domains)? {
        let servers = json!([server.to_string()]);
        if let Some(before) = all.insert(domain.clone(), servers.clone())
            && before != servers
        {
            notes.push(format!("{domain} was sent to {before} before"));
        }
    }
    Ok(Written {
        text: serde_json::to_string(&all).unwrap_or_default(),
        notes,
    })
}

/// A ConfigMap of `kube-system` with one key.
pub fn config_map(name: &str, key: &str, text: &str) -> Value {
    let data = Map::from_iter([(key.to_owned(), Value::from(text))]);
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "data": data,
    })
}

fn checked(domains: &[String]) -> Result<Vec<String>, StubError> {
    let mut all = Vec::new();
    for domain in domains {
        let plain = domain.trim().trim_matches('.').to_ascii_lowercase();
        let label = |l: &str| {
            !l.is_empty()
                && l.len() < 64
                && l.chars()
                    .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
        };
        if plain.is_empty() || !plain.split('.').all(label) {
            return Err(StubError::Domain(domain.clone()));
        }
        if !all.contains(&plain) {
            all.push(plain);
        }
    }
    Ok(all)
}

/// The zone of a key such as `dns://global.:53`.
fn zone(key: &str) -> String {
    let key = key.split_once("://").map_or(key, |(_, rest)| rest);
    let bare = key.rsplit_once(':').map_or(key, |(zone, _)| zone);
    bare.trim_end_matches('.').to_ascii_lowercase()
}

/// The words of a line without its comment.
fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split_whitespace().take_while(|word| !word.starts_with('#'))
}

fn blocks(lines: &[String]) -> Result<Vec<Block>, StubError> {
    let mut found = Vec::new();
    let mut depth = 0u32;
    let mut keys = Vec::new();
    let mut began = 0;
    for (number, line) in lines.iter().enumerate() {
        for word in words(line) {
            match word {
                "{" => depth += 1,
                "}" if depth == 0 => {
                    let why = "a closing brace without an opening one".to_owned();
                    return Err(StubError::Corefile {
                        line: number + 1,
                        why,
                    });
                }
                "}" => {
                    depth -= 1;
                    if depth == 0 {
                        found.push(Block {
                            keys: std::mem::take(&mut keys),
                            lines: began..=number,
                        });
                    }
                }
                key if depth == 0 => {
                    if keys.is_empty() {
                        began = number;
                    }
                    // `zone:53{` is one word to the eye and two to CoreDNS.
                    let (key, opens) = key.strip_suffix('{').map_or((key, false), |k| (k, true));
                    keys.push(key.trim_end_matches(',').to_owned());
                    depth += u32::from(opens);
                }
                word if word.ends_with('{') => depth += 1,
                _ => {}
            }
        }
    }
    if depth > 0 {
        let why = "the block that begins here is not closed".to_owned();
        return Err(StubError::Corefile { line: began + 1, why });
    }
    Ok(found)
}

/// Makes the block of a domain forward to `server`.
fn lead(lines: &mut Vec<String>, block: &Block, domain: &str, server: IpAddr, notes: &mut Vec<String>) {
    let at = block
        .lines
        .clone()
        .find(|at| words(&lines[*at]).next() == Some("forward"));
    let Some(at) = at else {
        let last = *block.lines.end();
        lines.insert(last, format!("    forward . {server}"));
        notes.push(format!("the block of {domain} forwards to {server} now"));
        return;
    };
    let line = lines[at].clone();
    let written: Vec<&str> = words(&line).collect();
    let indent = &line[..line.len() - line.trim_start().len()];
    let opens = written.last() == Some(&"{");
    let servers: Vec<&str> = written.iter().skip(2).copied().filter(|w| *w != "{").collect();
    if servers != [server.to_string()] {
        notes.push(format!(
            "the block of {domain} forwarded to {} before",
            servers.join(" ")
        ));
        lines[at] = format!("{indent}forward . {server}{}", if opens { " {" } else { "" });
    }
}

/// The line with `forward` for `proxy`.
fn without_proxy(line: &str) -> Option<String> {
    let mut written = words(line);
    if written.next() != Some("proxy") || written.next().is_none() {
        return None;
    }
    Some(line.replacen("proxy", "forward", 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: &str = "\
.:53 {
    errors
    health {
       lameduck 5s
    }
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl 30
    }
    prometheus :9153
    forward . /etc/resolv.conf {
       max_concurrent 1000
    }
    cache 30
    loop
    reload 10s
    loadbalance
}
";

    fn global() -> Vec<String> {
        vec!["global".to_owned()]
    }

    fn server() -> IpAddr {
        "10.96.0.77".parse().unwrap()
    }

    #[test]
    fn a_corefile_keeps_what_it_has_and_gets_the_domain() {
        let written = coredns(DEFAULT, &global(), server()).unwrap();
        let added = "global:53 {\n    errors\n    cache 30\n    forward . 10.96.0.77\n}\n";
        assert_eq!(written.text, format!("{DEFAULT}{added}"));
        assert_eq!(written.notes, Vec::<String>::new());
        let again = coredns(&written.text, &global(), server()).unwrap();
        assert_eq!(again, written, "a second time changes nothing");
        let moved = coredns(&written.text, &global(), "10.96.0.9".parse().unwrap()).unwrap();
        assert_eq!(moved.text, written.text.replace("10.96.0.77", "10.96.0.9"));
        assert_eq!(
            moved.notes,
            ["the block of global forwarded to 10.96.0.77 before"]
        );
    }

    /// As the documentation of old had it.
    #[test]
    fn the_plug_in_that_coredns_dropped_is_replaced() {
        let old = "\
.:53 {
    kubernetes cluster.local {
       pods insecure
    }
    proxy . /etc/resolv.conf
    cache 30
}
global:53 {
    cache 30
    proxy . 10.0.0.5
}
";
        let written = coredns(old, &global(), server()).unwrap();
        let new = old
            .replace("proxy . /etc", "forward . /etc")
            .replace("proxy . 10.0.0.5", "forward . 10.96.0.77");
        assert_eq!(written.text, new);
        assert_eq!(written.notes.len(), 4, "{:?}", written.notes);
        assert!(written.notes[3].contains("restart CoreDNS"));
    }

    #[test]
    fn a_corefile_that_does_not_close_is_left_alone() {
        let error = coredns(".:53 {\n  errors\n", &global(), server()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "line 1 of the Corefile: the block that begins here is not closed; correct it, then run this again"
        );
        assert!(coredns("}\n", &global(), server()).is_err());
        assert!(coredns("", &["a b".to_owned()], server()).is_err());
        assert!(coredns("", &["x { }".to_owned()], server()).is_err());
    }

    #[test]
    fn kube_dns_keeps_other_stub_domains() {
        let present = r#"{"corp.example": ["10.1.1.1"], "global": ["10.0.0.5"]}"#;
        let written = kube_dns(Some(present), &global(), server()).unwrap();
        assert_eq!(
            written.text,
            r#"{"corp.example":["10.1.1.1"],"global":["10.96.0.77"]}"#
        );
        assert_eq!(written.notes, [r#"global was sent to ["10.0.0.5"] before"#]);
        assert_eq!(
            kube_dns(None, &global(), server()).unwrap().text,
            r#"{"global":["10.96.0.77"]}"#
        );
        assert!(kube_dns(Some("{"), &global(), server()).is_err());
        assert!(kube_dns(Some(r#"{"a": "b"}"#), &global(), server()).is_err());
    }
}
