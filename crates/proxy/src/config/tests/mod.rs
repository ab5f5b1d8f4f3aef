//! Conversion proved on resources shaped as Istio's control plane writes them, and on hostile ones.

mod clusters;
mod listeners;
mod routes;

use isthmus_xds::envoy::{cluster, endpoint, listener, route};
use isthmus_xds::text;
use prost::{Message, Name};

use self::clusters::OUTBOUND;
use self::listeners::INBOUND;
use super::{Cluster, Endpoints, Listener, Refusal, RouteTable};

fn read<M: Message + Name + Default>(yaml: &str) -> M {
    text::read("test", yaml).unwrap_or_else(|e| panic!("{e}\n{yaml}"))
}

fn to_cluster(yaml: &str) -> Result<Cluster, Refusal> {
    Cluster::try_from(&read::<cluster::Cluster>(yaml))
}

fn to_listener(yaml: &str) -> Result<Listener, Refusal> {
    Listener::try_from(&read::<listener::Listener>(yaml))
}

fn to_routes(yaml: &str) -> Result<RouteTable, Refusal> {
    RouteTable::try_from(&read::<route::RouteConfiguration>(yaml))
}

fn to_endpoints(yaml: &str) -> Result<Endpoints, Refusal> {
    Endpoints::try_from(&read::<endpoint::ClusterLoadAssignment>(yaml))
}

/// Bytes of any kind may be refused, never more.
#[test]
fn garbage_is_an_error_and_nothing_else() {
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let good = read::<listener::Listener>(INBOUND).encode_to_vec();
    let cluster = read::<cluster::Cluster>(OUTBOUND).encode_to_vec();
    let mut decoded = 0;
    for round in 0..4000 {
        let mut bytes = if round % 2 == 0 {
            good.clone()
        } else {
            cluster.clone()
        };
        for _ in 0..=next() % 4 {
            let at = (next() % bytes.len() as u64) as usize;
            bytes[at] = next() as u8;
        }
        if let Ok(l) = listener::Listener::decode(bytes.as_slice()) {
            decoded += 1;
            let _ = Listener::try_from(&l);
        }
        if let Ok(c) = cluster::Cluster::decode(bytes.as_slice()) {
            decoded += 1;
            let _ = Cluster::try_from(&c);
        }
    }
    assert!(decoded > 100, "only {decoded} were messages at all");
}
