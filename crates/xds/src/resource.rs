//! What a server publishes: named resources with content versions, sets of one type, all types of one client.
//!
//! Everything is immutable and shared. A version is a hash of the content, so two control planes, or one
//! before and after a restart, give the same version to the same resource, and nothing is sent twice.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::Hasher;
use std::str::FromStr;
use std::sync::Arc;

use prost::{Message, Name};

use crate::envoy::Any;
use crate::{any, canonical};

/// The type of a resource. The order of the variants is the order in which a server sends them:
/// what is referred to travels before what refers to it ("make before break" in Envoy's protocol).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TypeUrl {
    /// `envoy.config.cluster.v3.Cluster`.
    Cds,
    /// `envoy.config.endpoint.v3.ClusterLoadAssignment`.
    Eds,
    /// `envoy.config.listener.v3.Listener`.
    Lds,
    /// `envoy.config.route.v3.RouteConfiguration`.
    Rds,
    /// `envoy.extensions.transport_sockets.tls.v3.Secret`.
    Sds,
    /// `istio.networking.nds.v1.NameTable`.
    Nds,
    /// Any other type, by its full URL.
    Other(Arc<str>),
}

impl TypeUrl {
    /// The named types, in the order in which they are sent.
    pub const KNOWN: [TypeUrl; 6] = [
        TypeUrl::Cds,
        TypeUrl::Eds,
        TypeUrl::Lds,
        TypeUrl::Rds,
        TypeUrl::Sds,
        TypeUrl::Nds,
    ];

    /// The URL as it stands in requests and responses.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Cds => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Eds => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Lds => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Rds => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            Self::Sds => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            Self::Nds => "type.googleapis.com/istio.networking.nds.v1.NameTable",
            Self::Other(url) => url,
        }
    }

    /// Istio's short name (`cds`, `eds`, ...), as metrics and `proxy-status` say it.
    pub fn short(&self) -> &str {
        match self {
            Self::Cds => "cds",
            Self::Eds => "eds",
            Self::Lds => "lds",
            Self::Rds => "rds",
            Self::Sds => "sds",
            Self::Nds => "nds",
            Self::Other(url) => any::full_name(url),
        }
    }

    /// Whether a state-of-the-world response must hold every resource, so that a missing one is a removed one.
    pub fn is_full_state(&self) -> bool {
        matches!(self, Self::Cds | Self::Lds | Self::Nds | Self::Other(_))
    }

    /// Whether a request that never named a resource asks for all of them (Envoy's legacy wildcard).
    ///
    /// EDS, RDS and SDS are always asked for by name; `*` makes a wildcard of any type.
    pub fn is_wildcard_by_default(&self) -> bool {
        !matches!(self, Self::Eds | Self::Rds | Self::Sds)
    }
}

impl From<&str> for TypeUrl {
    fn from(url: &str) -> Self {
        match Self::KNOWN.iter().find(|t| t.as_str() == url) {
            Some(known) => known.clone(),
            None => Self::Other(url.into()),
        }
    }
}

impl fmt::Display for TypeUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Hash of a content, 128 bits; in messages 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version(u128);

impl Version {
    /// A version that no content has: what a client holds under this name is unknown.
    pub const UNKNOWN: Version = Version(0);

    fn of(parts: &[&[u8]]) -> Self {
        // SipHash with fixed keys, twice under different prefixes. A new compiler may hash otherwise; the
        // cost is that resources are sent once more.
        let half = |prefix: u8| {
            let mut hasher = std::hash::DefaultHasher::new();
            hasher.write_u8(prefix);
            for part in parts {
                hasher.write_usize(part.len());
                hasher.write(part);
            }
            hasher.finish()
        };
        Self((u128::from(half(1)) << 64 | u128::from(half(2))).max(1))
    }

    fn of_set<'a>(members: impl Iterator<Item = &'a Arc<Resource>>) -> Self {
        let mut bytes = Vec::new();
        for resource in members {
            bytes.extend_from_slice(&(resource.name.len() as u64).to_be_bytes());
            bytes.extend_from_slice(resource.name.as_bytes());
            bytes.extend_from_slice(&resource.version.0.to_be_bytes());
        }
        Self::of(&[&bytes])
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0 >> 96)
    }
}

impl FromStr for Version {
    type Err = std::num::ParseIntError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        u128::from_str_radix(s, 16).map(Self)
    }
}

/// One named resource.
#[derive(Debug, Clone, PartialEq)]
pub struct Resource {
    /// Name, unique within its type.
    pub name: Arc<str>,
    /// Hash of `body`.
    pub version: Version,
    /// The packed message.
    pub body: Any,
}

impl Resource {
    /// Packs a message under a name.
    pub fn new<M: Message + Name>(name: impl Into<Arc<str>>, message: &M) -> Arc<Self> {
        Self::packed(name, any::pack(message))
    }

    /// A resource whose body is packed already.
    ///
    /// The entries of its maps are put in order, so that one content has one version.
    pub fn packed(name: impl Into<Arc<str>>, mut body: Any) -> Arc<Self> {
        canonical::order(&body.type_url, &mut body.value);
        let version = Version::of(&[body.type_url.as_bytes(), &body.value]);
        Arc::new(Self {
            name: name.into(),
            version,
            body,
        })
    }
}

/// All resources of one type for one client.
#[derive(Debug, Clone, PartialEq)]
pub struct ResourceSet {
    members: BTreeMap<Arc<str>, Arc<Resource>>,
    version: Version,
}

impl ResourceSet {
    /// Gathers resources; of two with one name the later wins.
    pub fn new(resources: impl IntoIterator<Item = Arc<Resource>>) -> Self {
        let members: BTreeMap<_, _> = resources.into_iter().map(|r| (r.name.clone(), r)).collect();
        let version = Version::of_set(members.values());
        Self { members, version }
    }

    /// Hash over the names and versions of the members.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The member with this name.
    pub fn member(&self, name: &str) -> Option<&Arc<Resource>> {
        self.members.get(name)
    }

    /// Members in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.members.values()
    }

    /// How many members there are.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }
}

impl Default for ResourceSet {
    fn default() -> Self {
        Self::new([])
    }
}

impl FromIterator<Arc<Resource>> for ResourceSet {
    fn from_iter<I: IntoIterator<Item = Arc<Resource>>>(resources: I) -> Self {
        Self::new(resources)
    }
}

/// What one client may subscribe to, of every type. A clone shares the sets.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Resources {
    sets: BTreeMap<TypeUrl, Arc<ResourceSet>>,
}

impl Resources {
    /// Nothing of any type.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with one set put in place.
    pub fn with(mut self, ty: TypeUrl, set: impl Into<Arc<ResourceSet>>) -> Self {
        self.insert(ty, set);
        self
    }

    /// Puts one set in place.
    pub fn insert(&mut self, ty: TypeUrl, set: impl Into<Arc<ResourceSet>>) {
        self.sets.insert(ty, set.into());
    }

    /// The set of one type; `None` when nothing of that type was published.
    pub fn set(&self, ty: &TypeUrl) -> Option<&Arc<ResourceSet>> {
        self.sets.get(ty)
    }

    /// All sets, in the order in which they are sent.
    pub fn iter(&self) -> impl Iterator<Item = (&TypeUrl, &Arc<ResourceSet>)> {
        self.sets.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envoy::cluster::Cluster;

    fn cluster(name: &str, stat: &str) -> Arc<Resource> {
        Resource::new(
            name,
            &Cluster {
                name: name.into(),
                alt_stat_name: stat.into(),
                ..Default::default()
            },
        )
    }

    #[test]
    fn the_version_is_the_content() {
        assert_eq!(cluster("a", "1").version, cluster("a", "1").version);
        assert_ne!(cluster("a", "1").version, cluster("a", "2").version);
        let ab = ResourceSet::new([cluster("a", "1"), cluster("b", "1")]);
        let ba = ResourceSet::new([cluster("b", "1"), cluster("a", "1")]);
        assert_eq!(ab.version(), ba.version());
        assert_ne!(ab.version(), ResourceSet::new([cluster("a", "1")]).version());
        let version = ab.version();
        assert_eq!(version.to_string().parse::<Version>(), Ok(version));
    }

    #[test]
    fn types_are_ordered_as_they_are_sent() {
        let mut types: Vec<TypeUrl> = TypeUrl::KNOWN.iter().rev().map(|t| t.as_str().into()).collect();
        types.sort();
        assert_eq!(types, TypeUrl::KNOWN);
        assert!(TypeUrl::Nds < TypeUrl::from("type.googleapis.com/a.B"));
        assert_eq!(TypeUrl::from("type.googleapis.com/a.B").short(), "a.B");
    }
}
