//! The one table of kinds: group, served versions, parser and validator. Parsing, watches, webhooks,
//! CRDs and the command line all go by it.

use std::fmt;
use std::sync::Arc;

use crate::decode::{Misfit, Strictness, Unknown, UnknownField, decode};
use crate::validate::{Context, Validate};
use crate::yaml::Node;
use crate::{istio, kubernetes};

/// What the table says of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Info {
    /// As in YAML: `VirtualService`.
    pub kind: &'static str,
    /// As in URLs and on the command line: `virtualservices`.
    pub plural: &'static str,
    /// API group; empty for core.
    pub group: &'static str,
    /// Served versions, the preferred one first.
    pub versions: &'static [&'static str],
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// Whether the typed content is the whole body (Kubernetes kinds) and not only `spec`.
    pub whole: bool,
    /// What a field means that no struct knows.
    pub unknown: Unknown,
}

impl Info {
    /// `networking.istio.io/v1`, or `v1` for core.
    pub fn api_version(&self) -> String {
        let version = self.versions.first().copied().unwrap_or_default();
        if self.group.is_empty() {
            version.to_owned()
        } else {
            format!("{}/{version}", self.group)
        }
    }
}

/// A struct that is the content of one kind.
pub trait Typed: Validate + Sized + Send + Sync + 'static {
    /// Its kind.
    const KIND: Kind;

    /// The content, if it is of this kind.
    fn of(spec: &Spec) -> Option<&Arc<Self>>;

    /// Wraps content.
    fn into_spec(self) -> Spec;
}

macro_rules! kinds {
    ($($kind:ident $group:literal $versions:expr, $plural:literal $scope:ident $body:ident $unknown:ident $path:path;)*) => {
        /// Every kind that is read.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Kind { $(#[doc = $plural] $kind),* }

        /// Typed content of an object.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Spec { $(#[doc = $plural] $kind(Arc<$path>)),* }

        impl Kind {
            /// Every kind, in the order of the table.
            pub const ALL: &'static [Kind] = &[$(Kind::$kind),*];

            /// What the table says.
            pub fn info(self) -> &'static Info {
                match self {
                    $(Kind::$kind => &Info {
                        kind: stringify!($kind),
                        plural: $plural,
                        group: $group,
                        versions: $versions,
                        namespaced: kinds!(@ $scope),
                        whole: kinds!(@ $body),
                        unknown: Unknown::$unknown,
                    },)*
                }
            }

            /// JSON schema of the content (`spec` of Istio's kinds), for CustomResourceDefinitions.
            pub fn schema(self) -> serde_json::Value {
                match self {
                    $(Kind::$kind => <$path as crate::describe::Describe>::describe(),)*
                }
            }

            pub(crate) fn decode(
                self,
                node: &Node,
                path: &str,
                unknown: &mut Vec<UnknownField>,
            ) -> Result<Spec, Misfit> {
                let info = self.info();
                let strictness = Strictness { unknown: info.unknown, numbers_as_text: !info.whole };
                let skip: &[&str] = if info.whole { &["apiVersion", "kind", "metadata", "status"] } else { &[] };
                match self {
                    $(Kind::$kind => decode::<$path>(node, path, skip, strictness, unknown)
                        .map(|spec| Spec::$kind(Arc::new(spec))),)*
                }
            }
        }

        impl Spec {
            /// What it is.
            pub fn kind(&self) -> Kind {
                match self { $(Spec::$kind(_) => Kind::$kind),* }
            }

            /// The content as JSON, in the field names of the API.
            ///
            /// # Errors
            /// None in practice; serde's signature has one.
            pub fn to_json(&self) -> Result<serde_json::Value, serde_json::Error> {
                match self { $(Spec::$kind(spec) => serde_json::to_value(&**spec)),* }
            }

            pub(crate) fn validate(&self, context: &Context<'_>) {
                match self { $(Spec::$kind(spec) => spec.validate(context)),* }
            }
        }

        $(impl Typed for $path {
            const KIND: Kind = Kind::$kind;

            fn of(spec: &Spec) -> Option<&Arc<Self>> {
                match spec { Spec::$kind(spec) => Some(spec), _ => None }
            }

            fn into_spec(self) -> Spec {
                Spec::$kind(Arc::new(self))
            }
        })*
    };
    (@ namespaced) => { true };
    (@ global) => { false };
    (@ whole) => { true };
    (@ spec) => { false };
}

kinds! {
    Namespace "" &["v1"], "namespaces" global whole Warn kubernetes::Namespace;
    Node "" &["v1"], "nodes" global whole Ignore kubernetes::Node;
    Service "" &["v1"], "services" namespaced whole Warn kubernetes::Service;
    Pod "" &["v1"], "pods" namespaced whole Ignore kubernetes::Pod;
    ServiceAccount "" &["v1"], "serviceaccounts" namespaced whole Warn kubernetes::ServiceAccount;
    ConfigMap "" &["v1"], "configmaps" namespaced whole Warn kubernetes::ConfigMap;
    Secret "" &["v1"], "secrets" namespaced whole Warn kubernetes::Secret;
    EndpointSlice "discovery.k8s.io" &["v1"], "endpointslices" namespaced whole Warn kubernetes::EndpointSlice;
    Deployment "apps" &["v1"], "deployments" namespaced whole Ignore kubernetes::Deployment;
    VirtualService "networking.istio.io" &["v1", "v1beta1", "v1alpha3"], "virtualservices" namespaced spec Error istio::VirtualService;
    DestinationRule "networking.istio.io" &["v1", "v1beta1", "v1alpha3"], "destinationrules" namespaced spec Error istio::DestinationRule;
    Gateway "networking.istio.io" &["v1", "v1beta1", "v1alpha3"], "gateways" namespaced spec Error istio::Gateway;
    ServiceEntry "networking.istio.io" &["v1", "v1beta1", "v1alpha3"], "serviceentries" namespaced spec Error istio::ServiceEntry;
    WorkloadEntry "networking.istio.io" &["v1", "v1beta1", "v1alpha3"], "workloadentries" namespaced spec Error istio::WorkloadEntry;
    WorkloadGroup "networking.istio.io" &["v1", "v1beta1", "v1alpha3"], "workloadgroups" namespaced spec Error istio::WorkloadGroup;
    Sidecar "networking.istio.io" &["v1", "v1beta1", "v1alpha3"], "sidecars" namespaced spec Error istio::Sidecar;
    ProxyConfig "networking.istio.io" &["v1beta1"], "proxyconfigs" namespaced spec Error istio::ProxyConfig;
    EnvoyFilter "networking.istio.io" &["v1alpha3"], "envoyfilters" namespaced spec Error istio::EnvoyFilter;
    PeerAuthentication "security.istio.io" &["v1", "v1beta1"], "peerauthentications" namespaced spec Error istio::PeerAuthentication;
    AuthorizationPolicy "security.istio.io" &["v1", "v1beta1"], "authorizationpolicies" namespaced spec Error istio::AuthorizationPolicy;
    RequestAuthentication "security.istio.io" &["v1", "v1beta1"], "requestauthentications" namespaced spec Error istio::RequestAuthentication;
    Telemetry "telemetry.istio.io" &["v1", "v1alpha1"], "telemetries" namespaced spec Error istio::Telemetry;
    WasmPlugin "extensions.istio.io" &["v1alpha1"], "wasmplugins" namespaced spec Error istio::WasmPlugin;
    IstioOperator "install.istio.io" &["v1alpha1"], "istiooperators" namespaced spec Error istio::IstioOperator;
}

impl Kind {
    /// The kind of this group and name, whatever the version.
    pub fn find(group: &str, kind: &str) -> Option<Kind> {
        Self::ALL
            .iter()
            .copied()
            .find(|k| k.info().kind == kind && k.info().group == group)
    }

    /// The kind that a user names: `VirtualService`, `virtualservices`, `virtualservice`.
    pub fn named(name: &str) -> Option<Kind> {
        let lower = name.to_ascii_lowercase();
        Self::ALL.iter().copied().find(|k| {
            let info = k.info();
            lower == info.plural || lower == info.kind.to_ascii_lowercase()
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.info().kind)
    }
}
