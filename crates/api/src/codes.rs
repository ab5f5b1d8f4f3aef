//! The one table of finding codes: Istio's `IST` where Istio has one, `ISM` of our own.

use crate::finding::Level;

/// A kind of finding.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Code {
    /// `IST0106`, `ISM0001`.
    pub id: &'static str,
    /// Istio's name for it, or ours.
    pub name: &'static str,
    /// Level unless the finding says otherwise.
    pub level: Level,
    /// What it means, in a line.
    pub explanation: &'static str,
    /// What to do, in a line.
    pub remedy: &'static str,
}

impl Code {
    /// Where Istio explains the code; empty for our own.
    pub fn documentation_url(&self) -> String {
        if self.id.starts_with("IST") {
            format!(
                "https://istio.io/latest/docs/reference/config/analysis/{}/",
                self.id.to_ascii_lowercase()
            )
        } else {
            String::new()
        }
    }
}

macro_rules! codes {
    ($($name:ident $id:literal $level:ident $camel:literal $explanation:literal $remedy:literal;)*) => {
        $(
            #[doc = $explanation]
            pub static $name: Code = Code {
                id: $id,
                name: $camel,
                level: Level::$level,
                explanation: $explanation,
                remedy: $remedy,
            };
        )*

        /// Every code, in the order of the table.
        pub static ALL: &[&Code] = &[$(&$name),*];
    };
}

codes! {
    DEPRECATED "IST0002" Warning "Deprecated"
        "A field or feature is deprecated." "Use what replaced it.";
    REFERENCED_RESOURCE_NOT_FOUND "IST0101" Error "ReferencedResourceNotFound"
        "A host, gateway, subset or secret that is referred to does not exist." "Create it, or correct the name.";
    SCHEMA "IST0106" Error "SchemaValidationError"
        "The resource breaks its schema or a rule of its kind." "Correct the field that is named.";
    MISPLACED_ANNOTATION "IST0107" Warning "MisplacedAnnotation"
        "An annotation stands on a kind for which it means nothing." "Move it.";
    CONFLICTING_MESH_HOSTS "IST0109" Error "ConflictingMeshGatewayVirtualServiceHosts"
        "Several VirtualServices on the mesh gateway define the same host." "Merge them into one.";
    SIDECAR_SELECTORS "IST0110" Error "ConflictingSidecarWorkloadSelectors"
        "Several Sidecars select the same workloads." "Make their selectors disjoint.";
    SIDECARS_WITHOUT_SELECTOR "IST0111" Error "MultipleSidecarsWithoutWorkloadSelectors"
        "Several Sidecars of a namespace have no workload selector." "Keep one of them.";
    PORT_REQUIRED "IST0112" Error "VirtualServiceDestinationPortSelectorRequired"
        "A route leads to a service with several ports and names none." "Name the port in the destination.";
    PORT_NAME "IST0118" Info "PortNameIsNotUnderNamingConvention"
        "The name of a Service's port does not say its protocol, which is then detected." "Name it http-..., grpc-... or tcp-..., or set appProtocol.";
    INVALID_REGEXP "IST0122" Error "InvalidRegexp"
        "A regular expression does not compile." "Correct it; the syntax is RE2.";
    INVALID_ANNOTATION "IST0125" Warning "InvalidAnnotation"
        "The value of an annotation is not valid." "Correct it.";
    NO_MATCHING_WORKLOADS "IST0127" Warning "NoMatchingWorkloadsFound"
        "No workload has the labels that are selected." "Correct the selector.";
    NO_SERVER_VERIFICATION "IST0128" Warning "NoServerCertificateVerificationDestinationLevel"
        "TLS without caCertificates does not verify the server." "Set caCertificates or credentialName.";
    UNREACHABLE_RULE "IST0130" Warning "VirtualServiceUnreachableRule"
        "A route can never be reached." "Move it before the route that takes everything, or remove it.";
    INEFFECTIVE_MATCH "IST0131" Info "VirtualServiceIneffectiveMatch"
        "A match repeats one of an earlier route." "Remove it.";
    HOST_NOT_IN_GATEWAY "IST0132" Warning "VirtualServiceHostNotFoundInGateway"
        "A VirtualService's host is not served by the Gateway that it names." "Add the host to the Gateway's server.";
    SCHEMA_WARNING "IST0133" Warning "SchemaWarning"
        "The resource is valid, but perhaps not as meant." "See the message.";
    ADDRESSES_REQUIRED "IST0134" Warning "ServiceEntryAddressesRequired"
        "A TCP port of a ServiceEntry needs an address to be told from others." "Add addresses.";
    CONFLICTING_GATEWAYS "IST0145" Error "ConflictingGateways"
        "Gateways with the same selector, port and host." "Give each host and port to one of them.";
    MALFORMED "ISM0001" Error "MalformedDocument"
        "The text is not YAML, or exceeds a limit." "Correct it at the line that is named.";
    NOT_AN_OBJECT "ISM0002" Error "NotAnObject"
        "The document has no apiVersion, kind or name." "Add what is missing.";
    UNKNOWN_KIND "ISM0003" Info "KindNotRead"
        "The kind is not one that the mesh reads." "Nothing, unless the kind is misspelt.";
    UNKNOWN_VERSION "ISM0004" Error "UnknownVersion"
        "The apiVersion is not one that the kind is served in." "Use a served version.";
    DUPLICATE_OBJECT "ISM0005" Error "DuplicateObject"
        "The same object is written twice; the first one counts." "Remove one of them.";
    NOT_ENFORCED "ISM0006" Error "SecurityFieldNotEnforced"
        "A security rule that the mesh cannot enforce yet; accepting it would give a false sense of safety." "Express it with fields that are enforced.";
    UNREADABLE "ISM0007" Error "UnreadableFile"
        "A file or directory cannot be read." "Check its permissions and encoding.";
    DUPLICATE_HOST "ISM0008" Error "DuplicateHost"
        "A host is declared twice." "Keep one declaration.";
    NO_EFFECT "ISM0009" Warning "NoEffect"
        "The field is accepted and does nothing." "Remove it.";
    LAST_GOOD "ISM0010" Warning "LastGoodInForce"
        "A document was refused; the last good version of its objects stays in force." "Correct the document.";
    CONFLICTING_RULES "ISM0011" Warning "ConflictingDestinationRules"
        "Several DestinationRules of a namespace say the same of one host; the oldest counts." "Merge them.";
    UNKNOWN_GATEWAY "ISM0101" Warning "UnknownGateway"
        "A ServiceEntry's endpoint uses the port of mesh gateways, but no cluster is known to have it." "Correct the address, or peer with its cluster.";
    GATEWAY_TARGET_PORT "ISM0102" Error "GatewayTargetPort"
        "A port of a ServiceEntry has no counterpart in the service behind the gateway." "Use a port number or name of the target service.";
    GATEWAY_HOP "ISM0103" Info "GatewayHop"
        "A ServiceEntry's endpoint is a gateway of the mesh; mutual TLS and the name of the service behind it are used." "Nothing.";
    NO_NETWORK_GATEWAY "ISM0104" Warning "NoNetworkGateway"
        "Endpoints run on a network for which no gateway is known; they are left out." "Label the gateway's Service with topology.istio.io/network, or peer with its cluster.";
    PORT_CONFLICT "ISM0105" Warning "PortConflict"
        "A port without an address is used by HTTP and another protocol; HTTP wins." "Give the other service an address.";
    TRUST_DOMAINS_DIFFER "ISM0106" Warning "TrustDomainsDiffer"
        "The installation and the MeshConfig name different trust domains; the MeshConfig wins." "Write the same in both.";
    UNUSABLE_AUTHORITY "ISM0107" Error "UnusableAuthority"
        "The files of Secret cacerts make no certificate authority; the present one stays." "Write the files that isthmus certs intermediate makes.";
    RESTART_REQUIRED "ISM0108" Warning "RestartRequired"
        "A setting counts only from the next start of the control plane on." "Restart the control plane.";
    UNUSABLE_PEER "ISM0109" Error "UnusablePeer"
        "An entry of ConfigMap isthmus-peers names no peer that can be dialled." "Write the public address of the other cluster's east-west gateway.";
    KIND_NOT_SERVED "ISM0110" Warning "KindNotServed"
        "The API server does not serve a kind that the mesh reads; it is read as soon as its CRD is there." "Install the CRDs.";
    NOT_PERMITTED "ISM0111" Error "NotPermitted"
        "The API server forbids the control plane to read a kind; what is known of it stays in force." "Grant list and watch to its service account.";
    API_SERVER_AWAY "ISM0112" Error "ApiServerAway"
        "An API server cannot be reached or fails; what is known of its cluster stays in force." "Look at the API server and the way to it.";
    REMOTE_SECRET "ISM0113" Error "RemoteSecretUnusable"
        "A remote secret cannot be used; what is known of its cluster stays in force." "Write what isthmus create-remote-secret prints.";
    DERIVED "ISM0114" Info "DerivedName"
        "A name that nobody gave was derived from another." "Give it, to choose another.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_explained() {
        let mut ids: Vec<_> = ALL.iter().map(|c| c.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), ALL.len());
        assert!(
            ALL.iter()
                .all(|c| c.explanation.ends_with('.') && c.remedy.ends_with('.'))
        );
        assert!(SCHEMA.documentation_url().ends_with("/ist0106/"));
        assert_eq!(MALFORMED.documentation_url(), "");
    }
}
