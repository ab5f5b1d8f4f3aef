//! Which peers there are: those of the command line, and those of ConfigMap `isthmus-peers` in the root
//! namespace, which may change at any time.
//!
//! ```yaml
//! data:
//!   eu: eastwest.eu.example.net        # or HOST:PORT; 15443 without a port
//! ```

use std::collections::BTreeMap;

use isthmus_api::finding::Finding;
use isthmus_api::kubernetes::ConfigMap;
use isthmus_api::{Kind, codes};
use isthmus_model::{ClusterId, EndpointAddress};

use crate::ingest::store::Store;
use crate::mesh::Identity;
use crate::registry::gateways::PASSTHROUGH_PORT;

/// Its name.
pub const CONFIG_MAP: &str = "isthmus-peers";
/// More peers than this are not dialled.
const MOST: usize = 200;

/// Peers by member cluster: `HOST:PORT` of their east-west gateway.
pub type Peers = BTreeMap<ClusterId, String>;

/// The peers now. An entry of the ConfigMap goes before a `given` one; one that cannot be used is a finding, and
/// the given one of that name stays.
pub fn read(store: &Store, identity: &Identity, given: &Peers, findings: &mut Vec<Finding>) -> Peers {
    let mut peers = given.clone();
    let object = store.object(Kind::ConfigMap, &identity.root_namespace, CONFIG_MAP);
    let Some((object, map)) = object.and_then(|o| Some((o, o.typed::<ConfigMap>()?))) else {
        return peers;
    };
    for (name, address) in &map.data {
        let usable = match name.as_str() {
            own if own == identity.cluster.as_str() => Err(format!("{own} is this cluster itself")),
            _ if peers.len() >= MOST => Err(format!("there are more than {MOST} peers")),
            _ => with_port(address),
        };
        match usable {
            Ok(address) => {
                peers.insert(ClusterId::from(name.as_str()), address);
            }
            Err(why) => findings.push(
                Finding::new(
                    &codes::UNUSABLE_PEER,
                    format!("peer {name} is not dialled: {why}"),
                    "write NAME: HOST or NAME: HOST:PORT, the public address of that cluster's east-west gateway",
                )
                .at(&object.origin.file, object.positions.line(&format!("data.{name}")))
                .about(object.key()),
            ),
        }
    }
    peers
}

fn with_port(address: &str) -> Result<String, String> {
    let address = address.trim();
    let named = |host: &str| host.parse::<EndpointAddress>().is_ok() && !host.is_empty();
    let bare = address.trim_start_matches('[').trim_end_matches(']');
    if named(bare) && bare.parse::<std::net::Ipv6Addr>().is_ok() {
        return Ok(format!("[{bare}]:{PASSTHROUGH_PORT}"));
    }
    match address.rsplit_once(':') {
        None if named(address) => Ok(format!("{address}:{PASSTHROUGH_PORT}")),
        Some((host, port)) if named(host.trim_start_matches('[').trim_end_matches(']')) => {
            match port.parse::<u16>() {
                Ok(port) if port > 0 => Ok(format!("{host}:{port}")),
                _ => Err(format!("{port:?} is no port")),
            }
        }
        _ => Err(format!("{address:?} is no address")),
    }
}

/// Addresses of peers' gateways.
pub fn addresses(peers: &Peers) -> Vec<(EndpointAddress, u16)> {
    peers
        .values()
        .filter_map(|address| {
            let (host, port) = address.rsplit_once(':')?;
            let host = host.trim_start_matches('[').trim_end_matches(']');
            Some((host.parse().ok()?, port.parse().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_may_leave_the_port_out() {
        for (written, meant) in [
            ("eastwest.eu.example.net", Some("eastwest.eu.example.net:15443")),
            ("203.0.113.7", Some("203.0.113.7:15443")),
            (" 203.0.113.7:31443 ", Some("203.0.113.7:31443")),
            ("2001:db8::7", Some("[2001:db8::7]:15443")),
            ("[2001:db8::7]:443", Some("[2001:db8::7]:443")),
            ("203.0.113.7:0", None),
            ("203.0.113.7:https", None),
            ("", None),
            ("not a host", None),
        ] {
            assert_eq!(with_port(written).ok().as_deref(), meant, "{written}");
        }
        let peers = Peers::from([(ClusterId::from("eu"), "[2001:db8::7]:443".to_owned())]);
        assert_eq!(addresses(&peers), [("2001:db8::7".parse().unwrap(), 443)]);
    }
}
