//! The name table: which names the mesh knows, and their addresses, as seen from one namespace.
//!
//! A table is immutable and compact (one string, sorted records, two address arrays); a new one is built
//! aside and swapped in. Short names and search domains are not stored: they are worked out at lookup
//! from the [`Scope`] of whoever asks, which is why ten thousand services cost ten thousand records.
//!
//! ```text
//!   reviews                      -> reviews.<own namespace>.svc.<domain>
//!   reviews.default[.svc]        -> reviews.default.svc.<domain>
//!   httpbin.bar.global           -> itself, else httpbin.bar.svc.<domain>
//!   a.example.com                -> itself, else *.example.com
//!   echo.eu.mesh.local.<search>  -> CNAME echo.eu.mesh.local   (a resolver with ndots:5 asks this first)
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// One host of the table, as the control plane tells it (Istio's `NameTable.NameInfo`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The host name; its first label may be `*`.
    pub host: &'a str,
    /// Addresses of both families, all that are to be answered.
    pub ips: Vec<IpAddr>,
    /// `Kubernetes` or `External`; informative.
    pub registry: &'a str,
    /// The service's name, with which short forms are made (`pod-0.svc` for a pod of a headless service).
    pub shortname: &'a str,
    /// The service's namespace; empty where short forms make no sense.
    pub namespace: &'a str,
}

/// From where names are looked up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    /// Search domains in the order in which a resolver appends them, lower case, no dots at the ends.
    search: Vec<String>,
    /// The cluster's domain, for `.global` names; empty when there is none.
    domain: String,
}

impl Scope {
    /// A pod of `namespace` in a cluster of `domain` (`cluster.local`): Kubernetes' three search domains.
    pub fn pod(namespace: &str, domain: &str) -> Self {
        let (namespace, domain) = (namespace.to_ascii_lowercase(), trimmed(domain));
        let search = vec![
            format!("{namespace}.svc.{domain}"),
            format!("svc.{domain}"),
            domain.clone(),
        ];
        Self { search, domain }
    }

    /// Adds search domains of the host (`us-west-2.compute.internal`), as its resolv.conf names them.
    pub fn with_search<S: AsRef<str>>(mut self, domains: impl IntoIterator<Item = S>) -> Self {
        for domain in domains {
            let domain = trimmed(domain.as_ref());
            if !domain.is_empty() && !self.search.contains(&domain) {
                self.search.push(domain);
            }
        }
        self
    }

    /// The search domains.
    pub fn search(&self) -> &[String] {
        &self.search
    }
}

fn trimmed(name: &str) -> String {
    name.trim_matches('.').to_ascii_lowercase()
}

/// Addresses of one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses<'a> {
    /// A records.
    pub v4: &'a [Ipv4Addr],
    /// AAAA records.
    pub v6: &'a [Ipv6Addr],
}

/// A name that the table knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found<'a> {
    /// Set when the question carried a search domain: the name that was meant, to be answered by CNAME.
    pub alias: Option<&'a str>,
    /// Its addresses; a family may be empty, which is NODATA.
    pub addresses: Addresses<'a>,
}

/// Where a record's name and addresses stand in the table's arrays.
#[derive(Debug, Clone, Copy)]
struct Record {
    name: u32,
    name_len: u8,
    v4: u32,
    v4_len: u16,
    v6: u32,
    v6_len: u16,
}

/// The table. [`Default`] is empty.
#[derive(Debug, Clone, Default)]
pub struct NameTable {
    names: String,
    /// Sorted by name; wildcards stand under their suffix with the leading dot.
    records: Vec<Record>,
    v4: Vec<Ipv4Addr>,
    v6: Vec<Ipv6Addr>,
}

impl NameTable {
    /// Builds a table. Of two entries with one host the addresses are joined; names that are no host
    /// names and the host `*` (which would take over all of DNS) are left out.
    pub fn build<'a>(entries: impl IntoIterator<Item = Entry<'a>>) -> Self {
        let mut all: Vec<(String, Vec<IpAddr>)> = Vec::new();
        for entry in entries {
            let host = trimmed(entry.host);
            let key = match host.strip_prefix('*') {
                Some("") => continue,
                Some(suffix) => suffix.to_owned(),
                None => host,
            };
            if key.is_empty() || key.len() > 253 || key.contains('*') {
                continue;
            }
            all.push((key, entry.ips));
        }
        all.sort_by(|(a, _), (b, _)| a.cmp(b));

        let mut table = Self::default();
        let mut all = all.into_iter().peekable();
        while let Some((name, mut ips)) = all.next() {
            while let Some((_, more)) = all.next_if(|(next, _)| *next == name) {
                ips.extend(more);
            }
            table.push(&name, &ips);
        }
        table.names.shrink_to_fit();
        table.records.shrink_to_fit();
        table.v4.shrink_to_fit();
        table.v6.shrink_to_fit();
        table
    }

    fn push(&mut self, name: &str, ips: &[IpAddr]) {
        let (name_at, v4_at, v6_at) = (self.names.len(), self.v4.len(), self.v6.len());
        for ip in ips {
            // A record counts addresses in 16 bits; no answer could carry more anyway.
            match ip {
                IpAddr::V4(ip) if !self.v4[v4_at..].contains(ip) && self.v4.len() - v4_at < 4096 => {
                    self.v4.push(*ip);
                }
                IpAddr::V6(ip) if !self.v6[v6_at..].contains(ip) && self.v6.len() - v6_at < 4096 => {
                    self.v6.push(*ip);
                }
                _ => {}
            }
        }
        self.names.push_str(name);
        self.records.push(Record {
            name: name_at as u32,
            name_len: name.len() as u8,
            v4: v4_at as u32,
            v4_len: (self.v4.len() - v4_at) as u16,
            v6: v6_at as u32,
            v6_len: (self.v6.len() - v6_at) as u16,
        });
    }

    /// Number of names, wildcards included.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether no name is known.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Every name with its addresses, in order; wildcards begin with `*`.
    pub fn iter(&self) -> impl Iterator<Item = (String, Addresses<'_>)> {
        self.records.iter().map(|r| {
            let name = self.name(r);
            let name = if name.starts_with('.') {
                format!("*{name}")
            } else {
                name.to_owned()
            };
            (name, self.addresses(r))
        })
    }

    /// The addresses of exactly this host name (lower case, no final dot), or of the wildcard with the
    /// longest suffix that covers it.
    pub fn host(&self, name: &str) -> Option<Addresses<'_>> {
        self.exact(name)
            .or_else(|| self.wildcard(name))
            .map(|r| self.addresses(r))
    }

    /// Whether some host of the table lies below `name`: then the name exists though it has no address.
    pub fn has_below(&self, name: &str) -> bool {
        let suffix = format!(".{name}");
        self.records.iter().any(|r| self.name(r).ends_with(&suffix))
    }

    /// Looks `question` (lower case, no final dot) up as `scope` sees it; `None` says that the name is
    /// not the mesh's and belongs to the upstream resolvers.
    pub fn lookup<'a>(&'a self, question: &'a str, scope: &Scope) -> Option<Found<'a>> {
        if let Some(record) = self.exact(question).or_else(|| self.short_form(question, scope)) {
            return Some(Found {
                alias: None,
                addresses: self.addresses(record),
            });
        }
        // A search domain is taken off before wildcards are tried: `*.cluster.local` may not swallow
        // what a resolver made of another mesh name.
        for search in &scope.search {
            let Some(meant) = question
                .strip_suffix(search.as_str())
                .and_then(|q| q.strip_suffix('.'))
            else {
                continue;
            };
            let known = self
                .exact(meant)
                .or_else(|| self.short_form(meant, scope))
                .or_else(|| self.wildcard(meant));
            if let Some(record) = known {
                return Some(Found {
                    alias: Some(meant),
                    addresses: self.addresses(record),
                });
            }
        }
        self.wildcard(question).map(|record| Found {
            alias: None,
            addresses: self.addresses(record),
        })
    }

    /// `reviews`, `reviews.default`, `reviews.default.svc` and `reviews.default.global`.
    fn short_form(&self, question: &str, scope: &Scope) -> Option<&Record> {
        if let Some(stem) = question.strip_suffix(".global")
            && !scope.domain.is_empty()
            && stem.contains('.')
        {
            return self.exact(&format!("{stem}.svc.{}", scope.domain));
        }
        let domains = scope.search.iter().take(3).filter(|s| s.ends_with(&scope.domain));
        let mut full = String::with_capacity(question.len() + 32);
        for search in domains {
            full.clear();
            full.push_str(question);
            full.push('.');
            full.push_str(search);
            if let Some(record) = self.exact(&full) {
                return Some(record);
            }
        }
        None
    }

    fn exact(&self, name: &str) -> Option<&Record> {
        // What begins with a dot is a wildcard's key, never a name.
        if name.starts_with('.') {
            None
        } else {
            self.key(name)
        }
    }

    fn wildcard(&self, name: &str) -> Option<&Record> {
        let mut suffixes = name.match_indices('.').filter(|(at, _)| *at > 0);
        suffixes.find_map(|(at, _)| self.key(&name[at..]))
    }

    fn key(&self, key: &str) -> Option<&Record> {
        let at = self.records.binary_search_by(|r| self.name(r).cmp(key)).ok()?;
        Some(&self.records[at])
    }

    fn name(&self, record: &Record) -> &str {
        let from = record.name as usize;
        &self.names[from..from + usize::from(record.name_len)]
    }

    fn addresses(&self, record: &Record) -> Addresses<'_> {
        let (v4, v6) = (record.v4 as usize, record.v6 as usize);
        Addresses {
            v4: &self.v4[v4..v4 + usize::from(record.v4_len)],
            v6: &self.v6[v6..v6 + usize::from(record.v6_len)],
        }
    }
}

#[cfg(test)]
mod tests;
