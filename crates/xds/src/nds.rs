//! The name table that Istio's control plane sends to the DNS proxy beside the application (NDS).
//!
//! Source: Istio `pkg/dns/proto/nds.proto`, package `istio.networking.nds.v1`.

use std::collections::BTreeMap;

/// Every host name of the mesh that one proxy may resolve.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct NameTable {
    /// Host name, lower case and without the final dot, to what it resolves to. Wildcards begin with `*.`.
    #[prost(btree_map = "string, message", tag = "1")]
    pub table: BTreeMap<String, NameInfo>,
}

/// What one host name resolves to.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct NameInfo {
    /// IPv4 and IPv6 addresses in text form.
    #[prost(string, repeated, tag = "1")]
    pub ips: Vec<String>,
    /// Where the name comes from: `Kubernetes` or `External`.
    #[prost(string, tag = "2")]
    pub registry: String,
    /// First label of a Kubernetes service's name; search domains are applied to it.
    #[prost(string, tag = "3")]
    pub shortname: String,
    /// Namespace of a Kubernetes service.
    #[prost(string, tag = "4")]
    pub namespace: String,
}

impl prost::Name for NameTable {
    const NAME: &'static str = "NameTable";
    const PACKAGE: &'static str = "istio.networking.nds.v1";

    fn type_url() -> String {
        "type.googleapis.com/istio.networking.nds.v1.NameTable".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    #[test]
    fn the_wire_form_is_istios() {
        let info = NameInfo {
            ips: vec!["240.240.0.1".into()],
            registry: "Kubernetes".into(),
            shortname: "a".into(),
            namespace: "b".into(),
        };
        let table = NameTable {
            table: BTreeMap::from([("a.b".to_owned(), info)]),
        };
        let mut expected = vec![0x0a, 0x26, 0x0a, 0x03];
        expected.extend(b"a.b");
        expected.extend([0x12, 0x1f, 0x0a, 0x0b]);
        expected.extend(b"240.240.0.1");
        expected.extend([0x12, 0x0a]);
        expected.extend(b"Kubernetes");
        expected.extend([0x1a, 0x01, b'a', 0x22, 0x01, b'b']);
        assert_eq!(table.encode_to_vec(), expected);
        assert_eq!(NameTable::decode(expected.as_slice()).unwrap(), table);
    }
}
